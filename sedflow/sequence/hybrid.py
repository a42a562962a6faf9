"""HYBRID: attention and minimal GRUs in both directions side by side, mixed half and half."""

from __future__ import annotations

import torch
from torch import nn

from sedflow.layers import (
    RMSNorm,
    at_least_float32,
    divided,
    from_sequential,
    key_mask,
    projection,
    split_heads,
)
from sedflow.products import Linear, attention
from sedflow.weights import load_strict


class Hybrid(nn.Module):
    """A linear projection, residual layers of (mixer, feed-forward), final RMSNorm; positions come from the GRUs alone.

    Parameters
    ----------
    dim : int    width of the embeddings
    width : int    width of the head; any multiple of ``heads``
    layers, heads : int
    expand : int    width of the feed-forward block, as a multiple of ``width``

    Source
    ------
    theMoro/EfficientSED 7bef42e models/sequence_models/hybrid/hybrid.py; minGRU: Feng et al., arXiv:2410.01201.
    """

    def __init__(self, dim, *, width: int = 256, layers: int = 2, heads: int = 8, expand: int = 4):
        super().__init__()
        self.dim = width
        self.project = projection(dim, width)
        self.layers = nn.ModuleList(
            nn.ModuleList([RMSNorm(width), _Mixer(width, heads), RMSNorm(width), _feed_forward(width, expand * width)])
            for _ in range(layers)
        )
        self.norm = RMSNorm(width)

    def forward(self, embeddings, padding_mask=None):
        """(batch, frames, dim) → (batch, frames, width)."""
        hidden = self.project(embeddings)
        for mixer_norm, mixer, feed_forward_norm, feed_forward in self.layers:
            hidden = hidden + mixer(mixer_norm(hidden), padding_mask)
            hidden = hidden + feed_forward(feed_forward_norm(hidden))
        return self.norm(hidden)

    def load_official(self, tensors):
        """Take the ``seq_model.*`` tensors of an official file, prefix stripped."""
        projected = isinstance(self.project, nn.Linear)
        load_strict(self, from_sequential(tensors, *["project."] * projected, ""), "hybrid")


def _feed_forward(width, inner):
    return nn.Sequential(Linear(width, inner), nn.GELU(), Linear(inner, width))


class _Mixer(nn.Module):
    """Plain attention and two-way minGRU of the same input, each normalised per head, averaged, projected."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = divided(width, heads)
        self.to_qkv = Linear(width, 3 * width, bias=False)
        self.rnn = _TwoWayMinGRU(width)
        self.rnn_out_norm = RMSNorm(width // heads)
        self.attn_out_norm = RMSNorm(width // heads)
        self.to_out = Linear(width, width, bias=False)

    def forward(self, x, padding_mask):
        query, key, value = split_heads(self.to_qkv(x), self.heads)
        attended = attention(query, key, value, key_mask(padding_mask))
        recurrent = self.rnn(x, padding_mask).unflatten(-1, (self.heads, -1))
        mixed = 0.5 * self.attn_out_norm(attended.transpose(1, 2)) + 0.5 * self.rnn_out_norm(recurrent)
        return self.to_out(mixed.flatten(2))


class _TwoWayMinGRU(nn.Module):
    """One minGRU forwards, one backwards in time; a linear layer joins them."""

    def __init__(self, width):
        super().__init__()
        self.forward_minGRU = _MinGRU(width)
        self.backward_minGRU = _MinGRU(width)
        self.to_out = Linear(2 * width, width, bias=False)

    def forward(self, x, padding_mask):
        reversed_mask = None if padding_mask is None else padding_mask.flip(1)
        past = self.forward_minGRU(x, padding_mask)
        future = self.backward_minGRU(x.flip(1), reversed_mask).flip(1)
        return self.to_out(torch.cat((past, future), dim=-1))


class _MinGRU(nn.Module):
    """h_t = (1 - z_t) h_{t-1} + z_t g(candidate_t) with z = sigmoid(gate), g(u) = u + 1/2 for u ≥ 0, else sigmoid(u).

    Always positive; computed in float32 at least. Padded frames add nothing, so a reversed clip starts from zero.
    """

    def __init__(self, width):
        super().__init__()
        self.to_hidden_and_gate = Linear(width, 2 * width, bias=False)

    def forward(self, x, padding_mask=None):
        candidate, gate = at_least_float32(self.to_hidden_and_gate(x)).chunk(2, dim=-1)
        gain = gate.sigmoid() * torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
        if padding_mask is not None:
            gain = gain * padding_mask.unsqueeze(-1)
        return _Recurrence.apply(gate.neg().sigmoid(), gain).to(x.dtype)


class _Recurrence(torch.autograd.Function):
    """h_t = keep_t · h_{t-1} + gain_t from h = 0, parallel in time; its gradient is the same recurrence backwards.

    The published form sums logarithms (cumsum, logcumsumexp): its error grows with the summed decay, to 2e-4 of the
    value over 250 frames. Here neighbouring steps are composed instead, which only multiplies and adds positive
    numbers and keeps float32's own precision at any length, at a fraction of the cost.
    """

    @staticmethod
    def forward(ctx, keep, gain):
        """(batch, frames, channels) twice → (batch, frames, channels)."""
        hidden = _compose(keep, gain)
        ctx.save_for_backward(keep, hidden)
        return hidden

    @staticmethod
    def backward(ctx, grad):
        """Gradients of both arguments."""
        keep, hidden = ctx.saved_tensors
        grad_gain = _compose(keep.roll(-1, 1).flip(1), grad.flip(1)).flip(1)
        grad_keep = torch.zeros_like(keep)
        grad_keep[:, 1:] = grad_gain[:, 1:] * hidden[:, :-1]
        return grad_keep, grad_gain


def _compose(keep, gain):
    """All h_t of h_t = keep_t · h_{t-1} + gain_t: compose pairs of steps, solve half as many, fill in the others."""
    frames = gain.shape[1]
    if frames == 1:
        return gain
    odd = _compose(
        keep[:, 1::2] * keep[:, :-1:2],
        torch.addcmul(gain[:, 1::2], keep[:, 1::2], gain[:, :-1:2]),
    )
    hidden = torch.empty_like(gain)
    hidden[:, 0] = gain[:, 0]
    hidden[:, 1::2] = odd
    hidden[:, 2::2] = torch.addcmul(gain[:, 2::2], keep[:, 2::2], odd[:, : (frames - 1) // 2])
    return hidden
