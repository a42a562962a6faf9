"""Wavmix: a clip with another beneath it, for student and teacher alike."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from sedflow.augment import changed, changed_alike, rows_that_say_when, tensor
from sedflow.augment.mixup import mixed_labels
from sedflow.dataset import Batch, Mixing
from sedflow.params import PSEUDO
from sedflow.ranges import Positive, Share

DOMAIN = "waveform"


def wavmix(
    batch: Batch,
    rng: np.random.Generator,
    *,
    probability: Share = 0.5,
    alpha: Positive = 2.0,
    sources: list[str] | None = None,
    known: Literal["both", "either"] = "both",
    partner: Literal["batch", "source"] = "batch",
) -> Batch:
    """Mix clips whose labels say when with another such clip: λ = max(b, 1 − b), b ~ Beta(alpha, alpha).

    Pseudo-labels are mixed with pseudo-labels. Both clips are freed of their mean before and the mixture after. Student
    and teacher read the same mixture: it counts as a clip of its own, not as mixing that the consistency loss has to
    follow.

    Parameters
    ----------
    probability : float    chance that a clip is mixed
    sources : list of str, optional    mix clips of these sources; all that say when if unset
    known : str    a class counts where "both" clips' labels speak of it, or where "either" clip's do
    partner : str
        The second clip: one of the "batch", or any of the same "source", each as likely; that costs reading it.

    Source
    ------
    EfficientSED, data_util/audioset_strong.py (partner: source).
    """
    rows = np.flatnonzero(rows_that_say_when(batch, sources))
    whole = batch.followed_by(batch.beneath) if partner == "source" and len(rows) else batch
    mixed_with, weight = np.arange(len(whole)), np.ones(len(whole))
    if len(rows):
        chosen = rng.random(len(rows)) < probability
        others = _others(batch, rows, rng) if whole is batch else np.arange(len(batch), len(whole))
        mixed_with[rows] = np.where(chosen, others, rows)
        drawn = rng.beta(alpha, alpha, size=len(rows))
        weight[rows] = np.maximum(drawn, 1 - drawn)
    mixing = Mixing(tensor(batch, mixed_with), tensor(batch, weight), tensor(batch, np.zeros(len(whole), int)))
    mixed = mixing.partner != tensor(batch, np.arange(len(whole)))

    def mix(waveform: Tensor) -> Tensor:
        level = waveform - waveform.mean(1, keepdim=True)
        both = mixing.apply(level)
        return (both - both.mean(1, keepdim=True)).where(mixed.unsqueeze(1), waveform)

    labelled = mixed_labels(whole, mixing, "soft", known)
    return changed_alike(labelled, lambda inputs: changed(inputs, waveform=mix)).first(len(batch))


def _others(batch: Batch, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row any of them, a clip with pseudo-labels alone for its like: of hard labels it says nothing."""
    pseudo = np.array([batch.kinds[row] == PSEUDO for row in rows])
    others = rows.copy()
    for alike in (~pseudo, pseudo):
        if alike.any():
            others[alike] = rng.choice(rows[alike], alike.sum())
    return others
