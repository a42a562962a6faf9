"""ATT: gated self-attention with rotary positions, and nothing else."""

from __future__ import annotations

from torch import nn

from sedflow.layers import GatedAttention, from_sequential, initialise_small, projection
from sedflow.weights import load_strict


class Attention(nn.Module):
    """A linear projection and residual attention layers, without feed-forward blocks or a final norm.

    Parameters
    ----------
    dim : int    width of the embeddings
    width : int    width of the head
    layers, heads : int
    dropout : float    on attention weights and outputs

    Source
    ------
    theMoro/EfficientSED 7bef42e models/sequence_models/roformer, sequence model "attn".
    """

    def __init__(self, dim, *, width: int = 256, layers: int = 2, heads: int = 8, dropout: float = 0.0):
        super().__init__()
        self.dim = width
        self.project = projection(dim, width)
        self.layers = nn.ModuleList(GatedAttention(width, heads, dropout) for _ in range(layers))
        initialise_small(self)

    def forward(self, embeddings, padding_mask=None):
        """(batch, frames, dim) → (batch, frames, width)."""
        hidden = self.project(embeddings)
        for attention in self.layers:
            hidden = hidden + attention(hidden, padding_mask)
        return hidden

    def load_official(self, tensors):
        """Take the ``seq_model.*`` tensors of an official file, prefix stripped."""
        projected = isinstance(self.project, nn.Linear)
        load_strict(self, from_sequential(tensors, *["project."] * projected, ""), "attention")
