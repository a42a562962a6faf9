"""Wavmix: a clip with another beneath it, for student and teacher alike."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sedflow.augment import changed, rows_that_say_when, tensor
from sedflow.augment.mixup import mixed_labels
from sedflow.dataset import Batch, Mixing

DOMAIN = "waveform"


def wavmix(
    batch: Batch,
    rng: np.random.Generator,
    *,
    probability: float = 0.5,
    alpha: float = 2.0,
    sources: list[str] | None = None,
    known: str = "both",
) -> Batch:
    """Mix clips whose labels say when with another such clip of the batch: λ = max(b, 1 − b), b ~ Beta(alpha, alpha).

    Both are freed of their mean before and the mixture after. Student and teacher read the same mixture: it counts as a
    clip of its own, not as mixing that the consistency loss has to follow.

    Parameters
    ----------
    probability : float    chance that a clip is mixed
    sources : list of str, optional    mix clips of these sources with each other; all that say when if unset
    known : str    a class counts where "both" clips' labels speak of it, or where "either" clip's do

    Source
    ------
    EfficientSED, data_util/audioset_strong.py; the second clip is drawn from the batch, there from the whole set.
    """
    rows = np.flatnonzero(rows_that_say_when(batch, sources))
    partner, weight = np.arange(len(batch)), np.ones(len(batch))
    if len(rows):
        partner[rows] = np.where(rng.random(len(rows)) < probability, rng.choice(rows, len(rows)), rows)
        drawn = rng.beta(alpha, alpha, size=len(rows))
        weight[rows] = np.maximum(drawn, 1 - drawn)
    mixing = Mixing(tensor(batch, partner), tensor(batch, weight), tensor(batch, np.zeros(len(batch), int)))
    mixed = mixing.partner != tensor(batch, np.arange(len(batch)))

    def mix(waveform: Tensor) -> Tensor:
        level = waveform - waveform.mean(1, keepdim=True)
        both = mixing.apply(level)
        return (both - both.mean(1, keepdim=True)).where(mixed.unsqueeze(1), waveform)

    labelled = mixed_labels(batch, mixing, "soft", known)
    return labelled.replace(inputs=changed(batch.inputs, waveform=mix), clean=changed(batch.clean, waveform=mix))
