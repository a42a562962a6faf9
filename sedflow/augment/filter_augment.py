"""FilterAugment: random gains of frequency bands, on the features."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sedflow.augment import changed, of_encoders, tensor
from sedflow.dataset import Batch
from sedflow.ranges import Count, NotNegative, Share

DOMAIN = "features"


def filter_augment(  # noqa: PLR0913 (settings of a page)
    batch: Batch,
    rng: np.random.Generator,
    *,
    probability: Share = 0.8,
    min_bands: Count = 3,
    max_bands: Count = 5,
    min_width: Count = 6,
    max_db: NotNegative = 6.0,
    teacher: bool = False,
    encoders: list[str] | None = None,
) -> Batch:
    """Multiply what an encoder reads by gains that go up and down in straight lines over its bands.

    Parameters
    ----------
    probability : float    chance that a batch is filtered
    min_bands, max_bands : int    how many lines; their ends are common to the batch, the gains are each clip's own
    min_width : int    shortest line, in bands of the features
    max_db : float    largest gain
    teacher : bool    the teacher reads features filtered by draws of its own; else unfiltered ones
    encoders : list of str, optional    filter what these read; all if unset

    Source
    ------
    FilterAugment, linear form (Nam et al., ICASSP 2022), on the scaled log mel as in EfficientSED, helpers/augment.py.
    """
    if rng.random() >= probability:
        return batch

    def filtered(features: Tensor) -> Tensor:
        bands = features.shape[1]
        count = int(rng.integers(min_bands, max_bands + 1))
        slack = max(0, bands - count * min_width)
        inner = np.sort(rng.integers(0, slack + 1, size=count - 1)) + min_width * np.arange(1, count)
        ends = np.concatenate([[0], inner, [bands - 1]])
        decibels = rng.uniform(-max_db, max_db, size=(len(features), count + 1))
        curves = np.stack([np.interp(np.arange(bands), ends, row) for row in decibels])
        return features * tensor(batch, 10 ** (curves / 20)).unsqueeze(2)

    change = of_encoders(filtered, encoders)
    inputs = changed(batch.inputs, features=change)
    return batch.replace(inputs=inputs, clean=changed(batch.clean, features=change) if teacher else batch.clean)
