"""Frequency warp: a band of the features, stretched to all of them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sedflow.augment import changed, grouped_rows
from sedflow.dataset import Batch, Inputs
from sedflow.ranges import Share

DOMAIN = "features"


def freq_warp(
    batch: Batch,
    rng: np.random.Generator,
    *,
    probability: Share = 0.5,
    min_share: Share = 0.6,
    groups: Literal["kind", "source", "batch"] | list[list[str]] = "kind",
    teacher: bool = True,
    encoders: list[str] | None = None,
) -> Batch:
    """Keep a random band of what an encoder reads and stretch it over all bands.

    Parameters
    ----------
    probability : float    chance that a batch is warped
    min_share : float    narrowest band, as a share of all bands
    groups : str or list of list of str    rows that are warped alike: by "kind" of labels, "source", "batch" or lists
    teacher : bool    warp what the teacher reads too, by draws of its own; else it reads everything
    encoders : list of str, optional    warp what these read; all if unset

    Source
    ------
    ATST-SED, train/local/rrc_module.py and stage2_trainer.py: by kind of labels, student before teacher.
    """
    if rng.random() >= probability:
        return batch
    inputs, clean = batch.inputs, batch.clean
    for rows in grouped_rows(batch, groups):
        inputs = _warped(inputs, rows, rng, min_share, encoders)
        if teacher:
            clean = _warped(clean, rows, rng, min_share, encoders)
    return batch.replace(inputs=inputs, clean=clean)


def _warped(inputs: Inputs, rows: np.ndarray, rng, min_share: float, encoders: list[str] | None) -> Inputs:
    def warp(name: str, features: Tensor) -> Tensor:
        if encoders is not None and name not in encoders:
            return features
        bands, frames = features.shape[1:]
        height = max(1, int(rng.uniform(min_share, 1.0) * bands))
        first = int(rng.integers(0, bands - height + 1))
        chosen = torch.as_tensor(rows, device=features.device)
        band = features[chosen, first : first + height].unsqueeze(1)
        stretched = F.interpolate(band, size=(bands, frames), mode="bicubic", align_corners=True)
        return features.index_put((chosen,), stretched.squeeze(1))

    return changed(inputs, features=warp)
