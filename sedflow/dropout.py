"""Dropout whose masks cost little on a processor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` by `dropout`."""

    def forward(self, values):
        """Any shape → the same."""
        return dropout(values, self.p, self.training)


def dropout(values: Tensor, p: float, training: bool) -> Tensor:
    """Numbers that are 0 with probability ``p``, which counts in steps of 1/65536, and 1 / (1 − ``p``) as large if not.

    PyTorch draws the mask number by number on a processor, which takes longer than the layer before it. Here one draw
    of 64 bits decides about four numbers.
    """
    if not training or p in (0, 1) or values.device.type != "cpu":
        return F.dropout(values, p, training)
    draws = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: values.numel()] >= round(p * 2**16) - 2**15
    mask = kept.to(values.dtype).mul_(1 / (1 - p))
    without_gaps = torch.empty_like(values, device="meta")  # channels last stay last
    return values * mask.as_strided(values.shape, without_gaps.stride())
