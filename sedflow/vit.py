"""The pre-norm transformer block that ATST-Frame and PaSST share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sedflow.dropout import Dropout
from sedflow.layer_norm import LayerNorm
from sedflow.products import Linear, attention


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); parameters are named as in timm.

    Parameters
    ----------
    dim, heads : int
    mlp_ratio : float    width of the hidden layer over dim
    qkv_bias : bool
    dropout : float    after the attention and in the mlp
    drop_path : float    chance that a clip skips the branch, in training
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim, heads, qkv_bias, dropout)
        self.norm2 = LayerNorm(dim, eps=1e-6)
        self.mlp = _Mlp(dim, int(dim * mlp_ratio), dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, dim) → the same."""
        tokens = tokens + self._kept(self.attn(self.norm1(tokens)))
        return tokens + self._kept(self.mlp(self.norm2(tokens)))

    def _kept(self, branch: Tensor) -> Tensor:
        """The branch, zero for the clips that skip it, the others scaled so that the mean stays."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * keep / (1 - self.drop_path)


def fixed_projection(dim: int, projected: int | None) -> nn.Module:
    """A linear layer that never trains, dim → projected; none if unset."""
    if projected is None:
        return nn.Identity()
    return nn.Linear(dim, projected).requires_grad_(False)


class _Attention(nn.Module):
    def __init__(self, dim, heads, qkv_bias, dropout):
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def forward(self, tokens):
        mixed = attention(*self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4))
        return self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))


class _Mlp(nn.Module):
    def __init__(self, dim, hidden, dropout):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, tokens):
        return self.dropout(self.fc2(self.dropout(self.fc1(tokens, gelu=True))))
