"""BiGRU: recurrent layers that read the sequence both ways."""

from __future__ import annotations

import torch
from torch import nn

from sedflow.recurrence import read_both_ways
from sedflow.weights import load_strict


class BiGRU(nn.Module):
    """Gated recurrent layers in both directions, their outputs joined.

    Parameters
    ----------
    dim : int    width of the embeddings
    width : int    of each direction; the output is twice as wide
    layers : int
    dropout : float    between layers

    Source
    ------
    theMoro/EfficientSED 7bef42e models/sequence_models/gru/gru.py; the same in the DCASE Task 4 baseline (CRNN)
    """

    def __init__(self, dim, *, width: int = 128, layers: int = 2, dropout: float = 0.0):
        super().__init__()
        self.dim = 2 * width
        self.gru = nn.GRU(dim, width, layers, batch_first=True, bidirectional=True, dropout=dropout)

    def forward(self, embeddings, padding_mask=None):
        """(batch, frames, dim) → (batch, frames, 2 · width); padding follows the clip and is not read."""
        if embeddings.device.type == "cpu" and not torch.compiler.is_compiling():
            return read_both_ways(self.gru, embeddings, padding_mask)
        # autocast has cuDNN's recurrent layers compute in float16 even for bfloat16, for which no loss is scaled
        with torch.autocast(embeddings.device.type, enabled=False):
            return self._read_by_torch(embeddings.to(self.gru.weight_hh_l0.dtype), padding_mask).to(embeddings.dtype)

    def _read_by_torch(self, embeddings, padding_mask):
        if padding_mask is None:
            return self.gru(embeddings)[0]
        lengths = padding_mask.sum(dim=1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(embeddings, lengths, batch_first=True, enforce_sorted=False)
        frames = embeddings.shape[1]
        return nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=frames)[0]

    def load_official(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take a file's ``seq_model.*`` or ``rnn.*`` tensors, prefix stripped, whatever the GRU is called in it."""
        load_strict(self, {"gru." + name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}, "bigru")
