"""BEATs: a transformer over 16 × 16 patches of a Kaldi filter bank, its tokens pooled to frames."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedflow.beats_layers import HEIGHT, PATCH, Block, Embedding
from sedflow.frames import FrameGrid
from sedflow.official import configuration, module_tensors
from sedflow.spectrogram import KaldiFbank
from sedflow.waveform import checked, completed, in_parts, in_windows, padded
from sedflow.weights import CheckpointError, load_strict, read_checkpoint

_STEP = PATCH * KaldiFbank.hop  # samples
_MEAN, _SPREAD = 15.41663, 6.55582
_SILENCE = (math.log(torch.finfo(torch.float32).eps) - _MEAN) / (2 * _SPREAD)

# BEATs base in the words of the official configuration …
_BASE = {
    "embed_dim": 512,
    "encoder_ffn_embed_dim": 3072,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "num_buckets": 320,
    "max_distance": 800,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.05,
}
_TRAINING = ("dropout", "attention_dropout", "activation_dropout", "dropout_input", "encoder_layerdrop")
# … where it has names of ours …
_SIZES = {"encoder_embed_dim": "dim", "encoder_layers": "depth", "encoder_attention_heads": "heads"}
# … and what all published files have in common: nothing else is implemented
_COMMON = {
    "input_patch_size": PATCH,
    "conv_bias": False,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}
# beginnings of official names, the longer ones first; both spellings of weight norm
_NAMES = {
    "encoder.layers.": "blocks.",
    "encoder.layer_norm.": "embedding.encoder_layer_norm.",
    "encoder.pos_conv.0.parametrizations.weight.original0": "embedding.pos_conv.weight_g",
    "encoder.pos_conv.0.parametrizations.weight.original1": "embedding.pos_conv.weight_v",
    "encoder.pos_conv.0.": "embedding.pos_conv.",
    "layer_norm.": "embedding.layer_norm.",
    "post_extract_proj.": "embedding.post_extract_proj.",
}


class BEATs(nn.Module):
    """BEATs base.

    Parameters
    ----------
    dim, depth, heads : int
    tokens : str
        How tokens become frames. "pooled": the flat sequence, time-major, eight patches per time step, is averaged
        adaptively, as published systems do: a frame sees some of the patches of its step. "time": each step's eight
        patches are averaged first.
    frame_rate : float
        Frames per second. Published: 25 (AudioSet-Strong), 15.6 (156 frames per 10 s, the DCASE baselines).
    window_seconds : float
        Longer clips are read in overlapping windows of this length. The official code reads any length in one piece.
    cfg : dict, optional
        Entries of the official configuration that differ from BEATs base's.

    Source
    ------
    microsoft/unilm 768a3c8 beats; fschmid56/PretrainedSED 1aa47e4 models/beats
    """

    sample_rate = 16000

    def __init__(
        self,
        *,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        tokens: str = "pooled",
        frame_rate: float = 25.0,
        window_seconds: float = 10.0,
        cfg: dict | None = None,
    ):
        super().__init__()
        unknown = (cfg or {}).keys() - _BASE.keys()
        if unknown:
            raise ValueError(f"cfg has {', '.join(sorted(unknown))}; known are {', '.join(_BASE)}")
        if tokens not in ("pooled", "time"):
            raise ValueError(f"tokens {tokens!r} is neither 'pooled' nor 'time'")
        self.dim, self.frame_rate, self.pool_steps = dim, frame_rate, tokens == "time"
        self.grid = FrameGrid(frame_rate)
        self.reach = self.grid.frames(window_seconds)
        self.cfg = _BASE | (cfg or {})
        self.trained_with = {"heads": heads, "max_distance": self.cfg["max_distance"]}
        self.sizes = {"dim": dim, "depth": depth, "heads": heads}
        self.filter_bank = KaldiFbank(self.sample_rate)
        self.embedding = Embedding(dim, heads, self.cfg)
        self.blocks = nn.ModuleList(Block(dim, depth, heads, self.cfg) for _ in range(depth))
        # the classifier of a fine-tuned file: kept, not trained, not needed for embeddings
        self.register_buffer("predictor_weight", None, persistent=False)
        self.register_buffer("predictor_bias", None, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) → (batch, frames, dim)."""
        waveform = checked(waveform, self.sample_rate)
        seconds = waveform.shape[1] / self.sample_rate
        frames = self.grid.frames(seconds)
        if frames > self.reach + 1:
            read = lambda part, frames: self._on_grid(self.log_mel(part), frames, frames)  # noqa: E731
            return in_windows(read, waveform, self.sample_rate, self.grid, self.reach)
        return self._on_grid(self.log_mel(waveform), frames, self.grid.whole_frames(seconds))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """(batch, samples) → what the network reads, (batch, bands, time)."""
        # time is stretched by half a step at most; 10 s are 62 steps, as published
        steps = max(1, math.ceil(waveform.shape[1] / _STEP - 0.5))
        samples = steps * _STEP + KaldiFbank.window - KaldiFbank.hop
        return self.features(padded(checked(waveform, self.sample_rate), samples)).transpose(1, 2)

    def from_log_mel(self, log_mel: Tensor, seconds: float) -> Tensor:
        """What the network reads (batch, bands, time) → (batch, frames, dim), longer clips in windows as waveforms."""
        frames = self.grid.frames(seconds)
        if frames > self.reach + 1:
            rate = self.sample_rate / KaldiFbank.hop
            return in_windows(self._window, log_mel, rate, self.grid, self.reach, frames)
        return self._on_grid(log_mel, frames, self.grid.whole_frames(seconds))

    def _window(self, log_mel: Tensor, frames: int) -> Tensor:
        # whole steps, as many as `log_mel` gives a waveform of a window's length, with silence behind the clip
        steps = round(frames * self.grid.hop_seconds * self.sample_rate / _STEP, 6)
        whole = max(1, math.ceil(steps - 0.5)) * PATCH
        log_mel = F.pad(log_mel[:, :, :whole], (0, max(0, whole - log_mel.shape[2])), value=_SILENCE)
        return self._on_grid(log_mel, frames, frames)

    def _on_grid(self, log_mel: Tensor, frames: int, whole: int) -> Tensor:
        """Embeddings of a clip that fills ``whole`` of its frames: over these, as published, its tokens are spread."""
        tokens = self.encode(log_mel.transpose(1, 2))
        if self.pool_steps:
            tokens = tokens.unflatten(1, (-1, HEIGHT)).mean(dim=2)
        return completed(F.adaptive_avg_pool1d(tokens.transpose(1, 2), whole).transpose(1, 2), frames)

    def tokens(self, waveform: Tensor, padding: Tensor | None = None) -> Tensor:
        """The official sequence (batch, tokens, dim), time-major: 496 tokens for 10 s.

        Parameters
        ----------
        waveform : (batch, samples)
        padding : (batch, samples) bool, optional    True where a clip is padding

        Raises
        ------
        ValueError    too short for one patch
        """
        shortest = (PATCH - 1) * KaldiFbank.hop + KaldiFbank.window
        if waveform.shape[1] < shortest:
            raise ValueError(
                f"{waveform.shape[1]} samples; a patch of BEATs needs {shortest}: pad the clip with silence"
            )
        features = self.features(waveform)
        return self.encode(features, None if padding is None else token_padding(padding, features.shape[1]))

    def features(self, waveform: Tensor) -> Tensor:
        """(batch, samples) → (batch, time, bands), the filter bank shifted and scaled."""
        return (self.filter_bank(waveform) - _MEAN) / (2 * _SPREAD)

    def encode(self, features: Tensor, padding: Tensor | None = None) -> Tensor:
        """Features (batch, time, bands) → tokens (batch, 8 · (time // 16), dim); ``padding`` (batch, tokens) bool."""
        count = features.shape[1] // PATCH * HEIGHT
        bias = self.embedding.relative_bias(count)
        if padding is None:
            return in_parts(lambda part: self._transformed(part, bias, None), features, count)
        return self._transformed(features, bias, padding)

    def _transformed(self, features: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
        tokens = self.embedding(features, padding)
        bias = bias.to(_precision(tokens))
        for block in self.blocks:
            tokens = block(tokens, bias, padding)
        return tokens

    def class_probabilities(self, waveform: Tensor) -> Tensor:
        """What a fine-tuned checkpoint says about a clip, (batch, classes), in the order of its own label list."""
        if self.predictor_weight is None:
            raise ValueError("these weights have no classifier; load a fine-tuned BEATs file")
        logits = F.linear(self.tokens(checked(waveform, self.sample_rate)), self.predictor_weight, self.predictor_bias)
        return logits.mean(dim=1).sigmoid()

    def layers(self) -> list[nn.Module]:
        """Patches with positions, the blocks."""
        return [self.embedding, *self.blocks]

    def load_official(self, path: str | Path, network: str = "teacher") -> list[str]:
        """Load BEATs from a file of Microsoft's (self-supervised or fine-tuned) or of PretrainedSED.

        Parameters
        ----------
        network : str    "teacher" or "student", where the file holds both

        Returns
        -------
        list of str
            Names in the file that embeddings do not need: classifier, heads, the other network.

        Raises
        ------
        CheckpointError    unreadable, or not a BEATs of this size and configuration
        """
        content = read_checkpoint(path)
        tensors, others = module_tensors(content, "patch_embedding.weight", path, network=network)
        self._check_configuration(configuration(content, path), path)
        predictor = {name: tensors.pop(name) for name in sorted(tensors) if name.startswith("predictor.")}
        if predictor:
            _check_predictor(predictor, self.dim, path)
        load_strict(self, _our_tensors(tensors, path), path)
        like = self.embedding.patch_embedding.weight
        for part in ("weight", "bias"):
            setattr(self, f"predictor_{part}", predictor[f"predictor.{part}"].to(like) if predictor else None)
        return others + list(predictor)

    def _check_configuration(self, cfg: dict, path) -> None:
        """Refuse a file whose configuration is not the encoder's, where the shapes of tensors would not tell."""
        ours = self.cfg | _COMMON | {official: self.sizes[name] for official, name in _SIZES.items()}
        differing = [
            f"{_SIZES.get(name, name)} {cfg[name]!r}, the encoder {ours[name]!r}"
            for name in ours
            if name in cfg and name not in _TRAINING and cfg[name] != ours[name]
        ]
        if differing:
            raise CheckpointError(
                f"{path}: the file has {'; '.join(differing)}; build the encoder with the settings of the file"
            )


def _precision(tokens: Tensor) -> torch.dtype:
    """What matrix products of these tokens are computed in."""
    device = tokens.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype


def token_padding(padding: Tensor, frames: int) -> Tensor:
    """Samples (batch, samples) bool → tokens: one is padding if all it is made of is."""
    for count in (frames, frames // PATCH * HEIGHT):
        padding = padding[:, : padding.shape[1] // count * count].unflatten(1, (count, -1)).all(dim=2)
    return padding


def _check_predictor(predictor: dict[str, Tensor], dim: int, path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in predictor.items()}
    classes = shapes.get("predictor.bias", ())
    if shapes != {"predictor.weight": (*classes, dim), "predictor.bias": classes} or len(classes) != 1:
        raise CheckpointError(f"{path}: its classifier has {shapes}, it needs a weight (classes, {dim}) and a bias")
    types = {name: tensor.dtype for name, tensor in predictor.items() if not tensor.is_floating_point()}
    if types:
        raise CheckpointError(f"{path}: its classifier is quantised, {types}; take a file in floating-point numbers")


def _our_tensors(official: dict[str, Tensor], path) -> dict[str, Tensor]:
    """By our names: one table of relative positions; queries, keys and values in one layer; taps normalised by hand."""
    ours, tables, projections = {}, [], {}
    for name, tensor in official.items():
        projection = re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        if name.endswith(".relative_attention_bias.weight"):
            tables.append(tensor)
        elif projection:
            block, letter, kind = projection.groups()
            projections.setdefault(f"blocks.{block}.self_attn.qkv.{kind}", {})[letter] = tensor
        elif name == "patch_embedding.weight":
            ours["embedding.patch_embedding.weight"] = tensor.flatten(1) if tensor.ndim == 4 else tensor
        else:
            ours[_our_name(name)] = tensor
    if not all(torch.equal(table, tables[0]) for table in tables):
        raise CheckpointError(f"{path}: its blocks have different relative positions; published BEATs share one table")
    if tables:
        ours["embedding.relative_attention_bias.weight"] = tables[0]
    for name, parts in projections.items():
        shapes = {letter: tuple(part.shape) for letter, part in parts.items()}
        if len(set(shapes.values())) > 1 or () in shapes.values():
            raise CheckpointError(
                f"{path}: {name} is made of parts of different shapes, {shapes}; is the file damaged?"
            )
        types = {letter: part.dtype for letter, part in parts.items()}
        if len({dtype.is_floating_point for dtype in types.values()}) > 1:
            raise CheckpointError(f"{path}: {name} is made of parts of different types, {types}; is it quantised?")
        # what is missing stays missing, for load_strict to say so
        ours |= {name: torch.cat([parts[letter] for letter in "qkv"])} if len(parts) == 3 else {}
    return ours


def _our_name(name: str) -> str:
    for official, ours in _NAMES.items():
        if name.startswith(official):
            return ours + name.removeprefix(official)
    return name
