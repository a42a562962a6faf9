"""TCN: residual stacks of dilated convolutions, causal as published."""

from __future__ import annotations

import torch
from torch import nn

from sedflow.dropout import Dropout
from sedflow.layers import from_sequential, projection
from sedflow.weights import CheckpointError, load_strict

# official files hold every convolution twice: as an attribute and as an entry of a Sequential
_TWINS = {"net.0.": "conv1.", "net.4.": "conv2."}


class TCN(nn.Module):
    """A linear projection and residual stacks, each of ``blocks`` blocks whose dilations double from 1 on.

    Parameters
    ----------
    dim : int    width of the embeddings
    width : int    width of the head
    layers : int    stacks
    blocks : int    per stack
    kernel : int    frames, odd
    dropout : float    after each convolution
    causal : bool    see the past only, as published; otherwise half of each kernel lies in the future

    Source
    ------
    theMoro/EfficientSED 7bef42e models/sequence_models/tcn/tcn.py
    """

    def __init__(
        self,
        dim,
        *,
        width: int = 256,
        layers: int = 2,
        blocks: int = 5,
        kernel: int = 3,
        dropout: float = 0.2,
        causal: bool = True,
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"tcn: kernel must be odd, got {kernel}")
        self.dim = width
        self.project = projection(dim, width)
        self.layers = nn.ModuleList(
            nn.ModuleList(_Block(width, kernel, 2**k, dropout, causal) for k in range(blocks)) for _ in range(layers)
        )

    def forward(self, embeddings, padding_mask=None):
        """(batch, frames, dim) → (batch, frames, width)."""
        hidden = self.project(embeddings).transpose(1, 2)  # (batch, width, frames)
        real = None if padding_mask is None else padding_mask.unsqueeze(1)
        for blocks in self.layers:
            residual = hidden
            for block in blocks:
                hidden = block(hidden, real)
            hidden = hidden + residual
        return hidden.transpose(1, 2)

    def load_official(self, tensors):
        """Take the ``seq_model.*`` tensors of an official file, prefix stripped."""
        projected = isinstance(self.project, nn.Linear)
        tensors = from_sequential(_without_twins(tensors), *["project."] * projected, "")
        spelling = {
            ".network.": ".",
            ".weight_g": ".parametrizations.weight.original0",
            ".weight_v": ".parametrizations.weight.original1",
        }
        for theirs, ours in spelling.items():
            tensors = {name.replace(theirs, ours): tensor for name, tensor in tensors.items()}
        load_strict(self, tensors, "tcn")


class _Block(nn.Module):
    """Two weight-normed dilated convolutions with ReLU and dropout, added to the input, ReLU."""

    def __init__(self, width, kernel, dilation, dropout, causal):
        super().__init__()
        reach = (kernel - 1) * dilation
        self.padding = (reach, 0) if causal else (reach // 2, reach // 2)
        self.conv1, self.conv2 = (
            nn.utils.parametrizations.weight_norm(nn.Conv1d(width, width, kernel, dilation=dilation)) for _ in range(2)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x, real):
        hidden = x
        for conv in (self.conv1, self.conv2):
            # behind the end of a clip there is silence, whatever its batch-mates do
            hidden = hidden if real is None else hidden * real
            hidden = self.dropout(conv(nn.functional.pad(hidden, self.padding)).relu())
        return (hidden + x).relu()


def _without_twins(tensors):
    single = {}
    for name, tensor in tensors.items():
        kept = name
        for twin, original in _TWINS.items():
            kept = kept.replace(twin, original)
        if kept in single and not torch.equal(single[kept], tensor):
            raise CheckpointError(f"tcn: {name} and {kept} should be one tensor, but they differ")
        single[kept] = tensor
    return single
