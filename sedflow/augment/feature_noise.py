"""Noise on cached features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sedflow.augment import changed
from sedflow.dataset import Batch
from sedflow.ranges import NotNegative

DOMAIN = "any"


def feature_noise(batch: Batch, rng: np.random.Generator, *, scale: NotNegative = 0.1) -> Batch:
    """Add noise to cached features, its strength relative to each feature's own spread in the batch.

    Parameters
    ----------
    scale : float    standard deviation of the noise in units of the feature's
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))

    def disturb(name: str, part: Tensor) -> Tensor:
        noise = torch.randn(part.shape, generator=generator).to(part)
        return part + scale * part.std((0, 1), keepdim=True) * noise

    return batch.replace(inputs=changed(batch.inputs, embeddings=disturb))
