"""No sequence head: frames are read off the embeddings, as the plain networks of EfficientSED and PretrainedSED do."""

from __future__ import annotations

from torch import nn

from sedflow.weights import load_strict


class Identity(nn.Module):
    """Embeddings as they are.

    Parameters
    ----------
    dim : int    width of the embeddings
    """

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, embeddings, padding_mask=None):
        """(batch, frames, dim) → the same."""
        return embeddings

    def load_official(self, tensors):
        """Take no tensors; any at all are an error."""
        load_strict(self, tensors, "identity")
