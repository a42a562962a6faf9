"""Matrix products of inference on a processor: which library is fast depends on the chip.

On one core of an AMD EPYC (Zen 5), 496 tokens: from 768 to 3072 features in float32 takes MKL 28 ms and oneDNN 12 ms;
attention of twelve heads in bfloat16 takes 13 ms fused, and 6 ms as two products and a softmax. Chips with AMX lose
nothing the usual way.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """`torch.nn.Linear`, by oneDNN where that is the faster library."""

    def forward(self, features: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        if _inferring(features) and features.dtype == self.weight.dtype == torch.float32 and _has_onednn():
            return torch.ops.mkldnn._linear_pointwise(features, self.weight, self.bias, "none", [], "")
        return super().forward(features)


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention, (batch, heads, tokens, width); ``bias`` is added to the scaled products."""
    if _inferring(queries) and queries.dtype == torch.bfloat16 and not dropout:
        batch = queries.shape[:2]
        queries, keys, values = queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), values.flatten(0, 1)
        scale = queries.shape[2] ** -0.5
        if bias is None:
            scores = torch.bmm(queries * scale, keys)
        else:
            scores = torch.baddbmm(bias.flatten(0, 1), queries, keys, alpha=scale)
        return torch.bmm(scores.softmax(dim=2), values).unflatten(0, batch)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, dropout_p=dropout)


def _inferring(features: Tensor) -> bool:
    """Whether the other way pays: no gradient, a processor, and none that multiplies in tiles."""
    return (
        features.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not _multiplies_in_tiles()
    )


@functools.cache
def _multiplies_in_tiles() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


@functools.cache
def _has_onednn() -> bool:
    # an operator that PyTorch's own compiler emits; a release without it multiplies with MKL
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
