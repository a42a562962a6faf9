"""Shift in time: sound and labels together."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sedflow.augment import changed_alike, over_time
from sedflow.dataset import Batch
from sedflow.ranges import NotNegative, Positive

DOMAIN = "any"


def frame_shift(
    batch: Batch,
    rng: np.random.Generator,
    *,
    max_seconds: NotNegative = 2.0,
    clip_seconds: Positive = 10.0,
    sigma_seconds: NotNegative | None = None,
    sources: list[str] | None = None,
) -> Batch:
    """Roll every clip in time by its own random amount, labels too; what leaves at the end re-enters at the start.

    A padded clip is left alone: its padding would end up in the middle.

    Parameters
    ----------
    max_seconds : float    largest shift to either side, each as likely
    clip_seconds : float    length of the clips; a page's own unless set
    sigma_seconds : float, optional    draw from a normal distribution of this width instead
    sources : list of str, optional    shift clips of these sources; all if unset

    Source
    ------
    EfficientSED, helpers/augment.py: a normal distribution of an eighth of the clip.
    """
    frames = batch.strong.shape[1]
    per_second = frames / clip_seconds
    if sigma_seconds is None:
        most = round(max_seconds * per_second)
        shifts = rng.integers(-most, most + 1, size=len(batch))
    else:
        shifts = np.round(rng.normal(0.0, sigma_seconds * per_second, size=len(batch))).astype(int)
    if sources is not None:
        shifts[~np.isin(batch.sources, sources)] = 0
    shifts[~batch.valid.all(1).cpu().numpy()] = 0

    def roll(values: Tensor) -> Tensor:
        length = values.shape[1]
        rolled = [row.roll(round(shift * length / frames), 0) for row, shift in zip(values, shifts, strict=True)]
        return torch.stack(rolled)

    return changed_alike(batch, lambda inputs: over_time(inputs, roll)).replace(
        strong=roll(batch.strong),
        pseudo=None if batch.pseudo is None else roll(batch.pseudo),
    )
