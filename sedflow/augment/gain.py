"""Loudness."""

from __future__ import annotations

import numpy as np

from sedflow.augment import changed, tensor
from sedflow.dataset import Batch
from sedflow.ranges import NotNegative

DOMAIN = "waveform"


def gain(batch: Batch, rng: np.random.Generator, *, max_db: NotNegative = 6.0) -> Batch:
    """Make every clip that the student reads louder or quieter by up to ``max_db`` decibel."""
    factors = tensor(batch, 10 ** (rng.uniform(-max_db, max_db, size=(len(batch), 1)) / 20))
    return batch.replace(inputs=changed(batch.inputs, waveform=lambda waveform: waveform * factors))
