"""Layer norm, which transformers have after or before every sum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sedflow import bfloat16
from sedflow.products import passes_pay


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` over the last axis, of a sum if there is one."""

    def forward(self, tokens: Tensor, others: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """(…, dim) → the norm of ``tokens`` + ``scale`` · ``others``, (…, dim)."""
        if passes_pay(tokens, others, self.weight, self.bias):
            return bfloat16.norm_of_sum(tokens, others, scale, self.weight, self.bias, self.eps)
        return super().forward(tokens if others is None else torch.add(tokens, others, alpha=scale))
