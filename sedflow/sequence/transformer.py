"""TF: pre-norm transformer with rotary positions and gated heads."""

from __future__ import annotations

import torch
from torch import nn

from sedflow.dropout import Dropout
from sedflow.layers import GatedAttention, RMSNorm, from_sequential, initialise_small, projection
from sedflow.products import Linear
from sedflow.weights import load_strict


class Transformer(nn.Module):
    """A linear projection, residual layers of gated attention and feed-forward, and a final norm.

    Parameters
    ----------
    dim : int    width of the embeddings
    width : int    width of the head
    layers, heads : int    the published widths below 128 have 4 heads
    dropout : float    on attention weights, on attention's output, and twice in the feed-forward layer

    Source
    ------
    theMoro/EfficientSED 7bef42e models/sequence_models/roformer, sequence model "tf"
    """

    def __init__(self, dim, *, width: int = 256, layers: int = 2, heads: int = 8, dropout: float = 0.2):
        super().__init__()
        self.dim = width
        self.project = projection(dim, width)
        self.layers = nn.ModuleList(
            nn.ModuleList([GatedAttention(width, heads, dropout), _FeedForward(width, dropout)]) for _ in range(layers)
        )
        self.norm = RMSNorm(width)
        initialise_small(self)

    def forward(self, embeddings, padding_mask=None):
        """(batch, frames, dim) → (batch, frames, width)."""
        hidden = self.project(embeddings)
        for attention, feed_forward in self.layers:
            hidden = hidden + attention(hidden, padding_mask)
            hidden = hidden + feed_forward(hidden)
        return self.norm(hidden)

    def load_official(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take a file's ``seq_model.*`` tensors, prefix stripped."""
        projected = isinstance(self.project, nn.Linear)
        load_strict(self, from_sequential(tensors, *["project."] * projected, ""), "transformer")


class _FeedForward(nn.Module):
    """Normalise, widen four times, narrow."""

    def __init__(self, dim, dropout):
        super().__init__()
        self.net = nn.Sequential(
            RMSNorm(dim),
            Linear(dim, 4 * dim),
            nn.GELU(),
            Dropout(dropout),
            Linear(4 * dim, dim),
            Dropout(dropout),
        )

    def forward(self, hidden):
        return self.net(hidden)
