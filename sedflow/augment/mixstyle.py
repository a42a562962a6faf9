"""MixStyle: the spectral colour of another clip."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from sedflow.augment import changed, grouped_rows, of_encoders, tensor
from sedflow.dataset import Batch
from sedflow.ranges import Positive, Share

DOMAIN = "features"


def mixstyle(
    batch: Batch,
    rng: np.random.Generator,
    *,
    probability: Share = 0.5,
    alpha: Positive = 0.3,
    groups: Literal["kind", "source", "batch"] | list[list[str]] = "kind",
    encoders: list[str] | None = None,
) -> Batch:
    """Give each band of what the student reads some of the mean and spread over time that another clip's has.

    Parameters
    ----------
    probability : float    chance that a batch is changed
    alpha : float    a clip keeps a share max(λ, 1 − λ) of its own statistics, λ ~ Beta(alpha, alpha) for each clip
    groups : str or list of list of str    whose statistics are exchanged, as in ``mixup``
    encoders : list of str, optional    change what these read; all if unset

    Source
    ------
    MixStyle (Zhou et al., ICLR 2021) over frequency, as in EfficientSED, helpers/augment.py.
    """
    if rng.random() >= probability:
        return batch
    partner, own = np.arange(len(batch)), np.ones(len(batch))
    for rows in grouped_rows(batch, groups):
        partner[rows] = rows[rng.permutation(len(rows))]
        drawn = rng.beta(alpha, alpha, size=len(rows))
        own[rows] = np.maximum(drawn, 1 - drawn)
    share, other = tensor(batch, own).view(-1, 1, 1), tensor(batch, partner)

    def restyle(features: Tensor) -> Tensor:
        mean, spread = features.mean(2, keepdim=True), (features.var(2, keepdim=True) + 1e-6).sqrt()
        blend = lambda statistic: share * statistic + (1 - share) * statistic[other]  # noqa: E731
        return (features - mean) / spread * blend(spread) + blend(mean)

    return batch.replace(inputs=changed(batch.inputs, features=of_encoders(restyle, encoders)))
