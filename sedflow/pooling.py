"""From embeddings to the common grid, and from the sequence on it to strong and weak scores."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedflow.plugins import SettingsError

_KINDS = ("attention", "attention_over_time", "mean", "max")
_MASKED = -1e30  # logit of a class that has no part in a softmax


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The scores of a detector for a batch.

    ``strong_logits`` (batch, frames, classes) and ``weak`` (batch, classes, probabilities in [0, 1]), both float32.

    Where classes were left out, ``known`` (batch, classes) bool says which are in: the probabilities of the others are
    0. ``strong_logits`` are those of every class even then, and ``weak_of_all`` is ``weak`` as it is without a mask.
    """

    strong_logits: Tensor
    weak: Tensor
    known: Tensor | None = None
    weak_of_all: Tensor | None = None

    @property
    def strong(self) -> Tensor:
        """Probability of each class in each frame, (batch, frames, classes)."""
        scores = self.strong_logits.sigmoid()
        return scores if self.known is None else scores * self.known.unsqueeze(1)

    def of_all_classes(self) -> Prediction:
        """The same prediction as if no class had been left out."""
        return self if self.known is None else Prediction(self.strong_logits, self.weak_of_all)


class Pooling(nn.Module):
    """Frame logits and clip probabilities from a sequence (batch, frames, dim).

    ``attention``: clip score = Σ_t strong·a / Σ_t a, where a is a softmax over the *classes* of each frame, clamped to
    [1e-7, 1]. Source: DCASE Task 4 baseline (DESED_task, nnet/CRNN.py), ATST-SED.
    ``attention_over_time``: the same sum with a softmax over time. ``mean``: sigmoid of a second linear layer on the
    time mean (EfficientSED). ``max``: the strongest frame.

    Classes that are not ``known`` score 0, and draw no attention from the others. Source: DCASE Task 4 baseline of
    2024, CP-JKU.
    """

    def __init__(self, dim: int, classes: int, kind: str):
        super().__init__()
        if kind not in _KINDS:
            raise SettingsError(f"pooling: {kind!r} is none of {', '.join(_KINDS)}")
        self.kind = kind
        self.strong = nn.Linear(dim, classes)
        self.weak = nn.Linear(dim, classes) if kind != "max" else None

    def forward(self, hidden: Tensor, valid: Tensor | None = None, known: Tensor | None = None) -> Prediction:
        """Read frame logits and clip probabilities off a sequence.

        Parameters
        ----------
        hidden : (batch, frames, dim)
        valid : (batch, frames) bool, optional    the other frames do not count
        known : (batch, classes) bool, optional    the other classes are left out
        """
        strong_logits = self.strong(hidden).float()
        weak_of = self._clip_scores(hidden, strong_logits.sigmoid(), valid)
        if known is None:
            return Prediction(strong_logits, weak_of(None))
        return Prediction(strong_logits, weak_of(known) * known, known, weak_of(None))

    def _clip_scores(self, hidden: Tensor, strong: Tensor, valid: Tensor | None):
        """A function from ``known`` to clip probabilities (batch, classes)."""
        keep = torch.ones_like(strong[..., :1]) if valid is None else valid.unsqueeze(-1).float()
        if self.kind in ("mean", "max"):  # each class by itself
            scores = self._of_mean(hidden, keep) if self.kind == "mean" else (strong * keep).amax(1)
            return lambda known: scores
        logits = self.weak(hidden).float()

        def pooled(known):
            if self.kind == "attention":
                among = logits if known is None else logits.masked_fill(~known.unsqueeze(1), _MASKED)
                attention = among.softmax(-1).clamp(1e-7, 1) * keep
            else:
                attention = logits.masked_fill(keep == 0, -torch.inf).softmax(1)
            return (strong * attention).sum(1) / attention.sum(1).clamp(min=1e-7)

        return pooled

    def _of_mean(self, hidden: Tensor, keep: Tensor) -> Tensor:
        mean = (hidden.float() * keep).sum(1) / keep.sum(1).clamp(min=1)
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(mean, self.weak.weight.float(), self.weak.bias.float()).sigmoid()


def match_frames(embeddings: Tensor, frames: int, how: str = "average") -> Tensor:
    """Bring (batch, n, dim) to (batch, frames, dim).

    Parameters
    ----------
    how : str
        "average": adaptive average of more, linear interpolation of fewer. "nearest": each frame takes what lies
        nearest to its middle.

    Source
    ------
    EfficientSED, models/prediction_wrapper.py:398-435; "nearest": CP-JKU, DCASE 2024 Task 4 (fPaSST, BEATs).
    """
    length = embeddings.shape[1]
    if length == frames:
        return embeddings
    channels_first = embeddings.transpose(1, 2)
    if how == "nearest":
        return F.interpolate(channels_first, size=frames, mode="nearest-exact").transpose(1, 2)
    if length > frames:
        return F.adaptive_avg_pool1d(channels_first, frames).transpose(1, 2)
    return F.interpolate(channels_first, size=frames, mode="linear", align_corners=False).transpose(1, 2)
