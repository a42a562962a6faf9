"""The network: encoders → common grid → sequence head → strong and weak scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from sedflow import plugins
from sedflow.dropout import Dropout
from sedflow.frames import FrameGrid
from sedflow.pooling import Pooling, Prediction, match_frames
from sedflow.products import Linear
from sedflow.waveform import checked, completed
from sedflow.weights import load_weights

# an encoder without weights is drawn from this seed, so that its cached features are reproducible
ENCODER_SEED = 20240101


class Detector(nn.Module):
    """Encoders on one frame grid, a sequence head over their joined embeddings, and two linear outputs.

    Parameters
    ----------
    encoders : dict    name → encoder plugin; their embeddings are joined in this order
    sequence : dict    settings of the sequence head, with its name
    classes : int
    frame_rate : float    frames per second of the scores
    pooling : str    how clip scores come from frame scores, see `Pooling`
    dropout : float    on the input and output of the sequence head
    merge_dropout : float or None    on the embeddings before they are merged, ``dropout`` if unset
    merge_dim : int or None    a linear layer over the joined embeddings; none if unset
    merge_norm : bool    normalise each encoder's embeddings (LayerNorm) before they are joined
    match : str    how embeddings are brought to the common grid, see `match_frames`
    """

    def __init__(  # noqa: PLR0913 (settings of a page)
        self,
        encoders,
        sequence,
        classes,
        *,
        frame_rate,
        pooling,
        dropout=0.0,
        merge_dropout=None,
        merge_dim=None,
        merge_norm=False,
        match="average",
    ):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.grid, self.match = FrameGrid(frame_rate), match
        self.frozen: set[str] = set()
        dims = {name: encoder.dim for name, encoder in encoders.items()}
        norms = {name: nn.LayerNorm(dim) for name, dim in dims.items()} if merge_norm else {}
        self.norms = nn.ModuleDict(norms)
        joined = sum(dims.values())
        self.merge = Linear(joined, merge_dim) if merge_dim else nn.Identity()
        self.dropout = Dropout(dropout)
        self.merge_dropout = Dropout(dropout if merge_dropout is None else merge_dropout)
        self._head_dropouts = [self.dropout] + [self.merge_dropout] * (merge_dropout is None)
        self.sequence = plugins.build("sequence", sequence, merge_dim or joined)
        self.pooling = Pooling(self.sequence.dim, classes, pooling)

    @property
    def sample_rate(self) -> int:
        """Hz; one rate for all encoders."""
        rates = {encoder.sample_rate for encoder in self.encoders.values()}
        if len(rates) != 1:
            raise plugins.SettingsError(
                f"the encoders read audio at different rates {sorted(rates)} Hz; choose one front end"
            )
        return rates.pop()

    def freeze(self, names) -> None:
        """Keep these encoders as they are: no gradient, evaluation mode for good (BatchNorm statistics included)."""
        self.frozen = set(names)
        for name in names:
            self.encoders[name].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True):
        """Switch to training, frozen encoders excepted."""
        super().train(mode)
        for name in self.frozen:
            self.encoders[name].eval()
        return self

    def share_frozen(self, other: Detector) -> None:
        """Freeze the same encoders of another detector of this build, and keep those once that are equal.

        They are not behind a stage that trained them, and a mean teacher.
        """
        other.freeze(self.frozen)
        for name in self.frozen:
            own, theirs = (network.encoders[name].state_dict() for network in (self, other))
            if all(value.equal(theirs[key]) for key, value in own.items()):
                other.encoders[name] = self.encoders[name]

    def set_dropout(self, rates: dict[str, float]) -> None:
        """Change dropout rates: before and after the sequence ``head``, and everywhere in a named encoder.

        A ``merge_dropout`` that was given stays.

        Raises
        ------
        SettingsError    the encoder has no dropout of one rate
        """
        for part, rate in rates.items():
            own = self._head_dropouts if part == "head" else self.encoders[part].modules()
            found = [module for module in own if isinstance(module, nn.Dropout)]
            if not found:
                raise plugins.SettingsError(
                    f"dropout: {part} has no dropout to set; leave it out, or check its settings"
                )
            for module in found:
                module.p = rate

    def embed(self, waveform: Tensor, names=None) -> dict[str, Tensor]:
        """Embeddings (batch, frames, dim) of the named encoders (default: all) for a waveform (batch, samples)."""
        embeddings = {}
        for name in self.encoders if names is None else names:
            with torch.set_grad_enabled(torch.is_grad_enabled() and name not in self.frozen):
                embeddings[name] = self.encoders[name](waveform)
        return embeddings

    @torch.no_grad()
    def opened(self, inputs, domain: str, encoders=None):
        """`sedflow.dataset.Inputs` brought forward to linear mel ("spectrum") or what networks read ("features").

        Only what the named encoders read is opened, by default what all do. Encoders whose embeddings are given read
        nothing more, and what is there already stays.

        Raises
        ------
        SettingsError    linear mel of an encoder that has none
        """
        done = {*inputs.embeddings, *inputs.features}
        open_names = [name for name in self.encoders if name not in done and (encoders is None or name in encoders)]
        spectra, features = dict(inputs.spectra), dict(inputs.features)
        for name in open_names:
            encoder = self.encoders[name]
            linear = hasattr(encoder, "spectrogram")
            if linear and name not in spectra:
                spectra[name] = encoder.spectrogram(checked(inputs.waveform, encoder.sample_rate))
            if domain == "features":
                features[name] = encoder.features(spectra.pop(name)) if linear else encoder.log_mel(inputs.waveform)
            elif not linear:
                raise plugins.SettingsError(f"{name} has no linear mel spectrum; augment on waveform or features")
        return dataclasses.replace(inputs, spectra=spectra, features=features)

    def read(self, inputs, frames: int, valid: Tensor | None = None, known: Tensor | None = None) -> Prediction:
        """Score a batch from whatever its inputs are brought to, see `opened`; the rest as `forward`."""
        embeddings = dict(inputs.embeddings)
        if inputs.spectra or inputs.features:
            begun = {*inputs.spectra, *inputs.features}
            for name, features in self.opened(inputs, "features", begun).features.items():
                embeddings[name] = self._encoded(name, features, inputs.waveform)
        return self(inputs.waveform, embeddings, frames, valid, known)

    def _encoded(self, name: str, features: Tensor, waveform: Tensor | None) -> Tensor:
        encoder = self.encoders[name]
        with torch.set_grad_enabled(torch.is_grad_enabled() and name not in self.frozen):
            if waveform is None:
                return encoder.encode(features)  # the length of the clip is unknown: the encoder's own sequence
            seconds = waveform.shape[1] / encoder.sample_rate
            if hasattr(encoder, "from_log_mel"):
                return encoder.from_log_mel(features, seconds)
            return completed(encoder.encode(features), FrameGrid(encoder.frame_rate).frames(seconds))

    def forward(
        self,
        waveform: Tensor | None,
        embeddings: dict[str, Tensor],
        frames: int,
        valid: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Prediction:
        """Score a batch.

        Parameters
        ----------
        waveform : (batch, samples) float32, or None when every encoder's embeddings are given
        embeddings : dict    embeddings computed before (the cache), name → (batch, its frames, its dim)
        frames : int    length of the scores on the detector's grid
        valid : (batch, frames) bool, optional    False where a clip is padding
        known : (batch, classes) bool, optional    classes to leave out, see `Pooling`; in use, every class is known
        """
        if valid is not None and bool(valid.all()):
            valid = None  # heads have a faster path without padding
        if known is not None and bool(known.all()):
            known = None
        missing = [name for name in self.encoders if name not in embeddings]
        computed = self.embed(waveform, missing) if missing else {}
        joined = []
        for name, encoder in self.encoders.items():
            part = embeddings[name] if name in embeddings else computed[name]
            # stretched over a last frame that the clip fills only in part, all would come early
            whole = self.grid.whole_frames(part.shape[1] / encoder.frame_rate)
            part = completed(match_frames(part, whole if whole == frames - 1 else frames, self.match), frames)
            joined.append(self.norms[name](part) if name in self.norms else part)
        hidden = self.merge(self.merge_dropout(torch.cat(joined, dim=-1)))
        hidden = self.dropout(self.sequence(hidden, valid))
        return self.pooling(hidden, valid, known)


def fastest_device() -> str:
    """A GPU where there is one, for torch's ``to``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def build_encoder(spec: dict, weights: Path | None = None):
    """An encoder from its settings, with the official weights if a file is given."""
    own = {key: value for key, value in spec.items() if key != "weights"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ENCODER_SEED)
        encoder = plugins.build("encoders", own)
        if weights is None:
            _settle_norms(encoder)
    if weights is not None:
        load_weights(encoder, weights)
    return encoder


@torch.no_grad()
def _settle_norms(encoder) -> None:
    """Take the batch norms' statistics of an untrained encoder from a second of noise.

    With the statistics it is constructed with, activations fade from layer to layer, and a frozen encoder would carry
    no information.
    """
    norms = [part for part in encoder.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    encoder.train()(0.01 * torch.randn(4, encoder.sample_rate))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def build_detector(settings: dict, classes: int, weights: dict[str, Path] | None = None) -> Detector:
    """A detector from the settings of a page's ``detector`` section.

    Parameters
    ----------
    settings : dict    see `sedflow.params.Detector`
    classes : int
    weights : dict    encoder name → official checkpoint
    """
    weights = weights or {}
    encoders = {spec["name"]: build_encoder(spec, weights.get(spec["name"])) for spec in settings["encoders"]}
    names = ("frame_rate", "pooling", "dropout", "merge_dropout", "merge_dim", "merge_norm", "match")
    options = {name: settings[name] for name in names if name in settings}
    return Detector(encoders, settings["sequence"], classes, **options)
