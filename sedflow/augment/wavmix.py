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
    partner: str = "batch",
) -> Batch:
    """Mix clips whose labels say when with another such clip: λ = max(b, 1 − b), b ~ Beta(alpha, alpha).

    Both are freed of their mean before and the mixture after. Student and teacher read the same mixture: it counts as a
    clip of its own, not as mixing that the consistency loss has to follow.

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
        others = rng.choice(rows, len(rows)) if whole is batch else np.arange(len(batch), len(whole))
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
    inputs, clean = changed(whole.inputs, waveform=mix), changed(whole.clean, waveform=mix)
    return labelled.replace(inputs=inputs, clean=clean).first(len(batch))
