"""One layer of Zipformer2 and its parts: attention weights are computed once and used three times.

Frames come as (batch, frames, width). Submodules carry the official names.

Source
------
Yao et al., arXiv:2310.11230, section 3; k2-fsa/icefall 36e0420 egs/librispeech/ASR/zipformer.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from sedflow.dropout import Dropout
from sedflow.layers import at_least_float32
from sedflow.products import Linear
from sedflow.regularisers import Balancer, Ceiling, Whitener, limited


class ZipformerLayer(nn.Module):
    """Three feed-forward blocks, three kinds of attention and two convolutions between two bypasses.

    Parameters
    ----------
    width, heads, kernel : int
    feed_forward : int    width of the second feed-forward block; the others have 3/4 and 5/4 of it
    query_dim, position_head_dim, value_dim : int    of one head
    position_dim : int    width of the position code
    dropout, skip : float    in training: of activations; of the layer, clip by clip
    """

    def __init__(  # noqa: PLR0913 (one entry per row of the paper's table)
        self,
        *,
        width,
        heads,
        feed_forward,
        kernel,
        query_dim,
        position_head_dim,
        value_dim,
        position_dim,
        dropout,
        skip,
    ):
        super().__init__()
        self.self_attn_weights = _AttentionWeights(width, heads, query_dim, position_head_dim, position_dim)
        self.self_attn1, self.self_attn2 = (_Attention(width, heads, value_dim) for _ in range(2))
        self.nonlin_attention = _NonlinearAttention(width, 3 * width // 4)
        self.conv_module1, self.conv_module2 = (_Convolution(width, kernel) for _ in range(2))
        self.feed_forward1, self.feed_forward2, self.feed_forward3 = (
            _FeedForward(width, quarters * feed_forward // 4, dropout) for quarters in (3, 4, 5)
        )
        self.norm = BiasNorm(width)
        self.bypass_mid, self.bypass = Bypass(width), Bypass(width, skip)
        self.balance_attention = Balancer((0.3, 0.7), (0.02, 100.0), share=0.05)
        self.balance_second = Balancer((0.3, 0.7), (0.1, 2.0), share=0.05)
        self.balance_third = Balancer((0.3, 0.7), (0.2, 4.0), share=0.05)
        self.balance_sum = Balancer((0.45, 0.55), (0.2, 4.0))
        self.balance_output = Balancer((0.45, 0.55), (0.1, 4.0))
        self.whiten = Whitener(4.0)

    def forward(self, x, positions, padding_mask=None):
        """(batch, frames, width), (2 · frames - 1, position_dim) → (batch, frames, width)."""
        source = x
        weights = self.self_attn_weights(x, positions, padding_mask)
        x = x + self.feed_forward1(x)
        x = x + self.balance_attention(self.nonlin_attention(x, weights[:, 0]))
        x = x + self.self_attn1(x, weights)
        x = x + self.conv_module1(x, padding_mask)
        x = x + self.balance_second(self.feed_forward2(x))
        x = self.bypass_mid(source, x)
        x = x + self.self_attn2(x, weights)
        x = x + self.conv_module2(x, padding_mask)
        x = x + self.balance_third(self.feed_forward3(x))
        x = self.bypass(source, self.norm(self.balance_sum(x)))
        return self.whiten(self.balance_output(x))


class Bypass(nn.Module):
    """Go from ``source`` to ``x`` by a learned share per channel, held within [0.2, 1]; in training skip some clips."""

    def __init__(self, width: int, skip: float = 0.0):
        super().__init__()
        self.skip = skip
        self.bypass_scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, source, x):
        """(batch, frames, width) twice → the same shape."""
        scale = self.bypass_scale
        if self.training:
            scale = limited(scale, 0.2, 1.0)
            if self.skip:
                scale = scale * (torch.rand(len(x), 1, 1, device=x.device) >= self.skip)
        return source + (x - source) * scale


class BiasNorm(nn.Module):
    """x / rms(x - bias) · exp(log_scale): a bias that only the rms sees, and one scale, held within e^±1.5."""

    def __init__(self, width: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(1e-4 * torch.randn(width))

    def forward(self, x):
        """(…, width) → the same shape, computed in float32 at least."""
        log_scale = limited(self.log_scale, -1.5, 1.5) if self.training else self.log_scale
        wide = at_least_float32(x)
        rms = (wide - self.bias).square().mean(-1, keepdim=True).clamp(min=1e-20).sqrt()
        return (wide / rms * log_scale.exp()).to(x.dtype)


class SwooshL(nn.Module):
    """log(1 + e^(x - 4)) - 0.08 x - 0.035."""

    def forward(self, x):
        """Any shape."""
        return nn.functional.softplus(x - 4) - 0.08 * x - 0.035


class SwooshR(nn.Module):
    """log(1 + e^(x - 1)) - 0.08 x - 0.313261687, which is zero at zero."""

    def forward(self, x):
        """Any shape."""
        return nn.functional.softplus(x - 1) - 0.08 * x - 0.313261687


def relative_positions(frames: int, dim: int, like):
    """Codes of the offsets 1 - frames … frames - 1, fine near zero and coarse far away.

    Returns
    -------
    (2 · frames - 1, dim) on the device and in the precision of ``like``
    """
    offsets = torch.arange(1 - frames, frames, device=like.device, dtype=at_least_float32(like).dtype)
    squeezed = math.sqrt(dim) * offsets.sign() * (offsets.abs() / math.sqrt(dim)).log1p()
    angles = (squeezed * 2 * math.pi / dim).atan().unsqueeze(1) * torch.arange(1, dim // 2 + 1, device=like.device)
    codes = torch.stack((angles.cos(), angles.sin()), dim=-1).flatten(1)
    codes[:, -1] = 1.0  # a constant lets a head have a bias
    return codes.to(like.dtype)


class _AttentionWeights(nn.Module):
    """Softmax of query · key + position query · relative position; the scale is left to the weights."""

    def __init__(self, width, heads, query_dim, position_head_dim, position_dim):
        super().__init__()
        self.heads = heads
        self.sizes = [heads * query_dim, heads * query_dim, heads * position_head_dim]
        self.in_proj = _linear(width, sum(self.sizes), query_dim**-0.25)
        self.linear_pos = Linear(position_dim, heads * position_head_dim, bias=False)
        nn.init.uniform_(self.linear_pos.weight, -0.05 * position_dim**-0.5, 0.05 * position_dim**-0.5)
        self.balance = Balancer((0.4, 0.6), (0.0, 100.0), share=0.025)
        self.whiten = Whitener(3.0, groups=heads, strength=0.025)
        self.ceiling = Ceiling(25.0)

    def forward(self, x, positions, padding_mask):
        """→ (batch, heads, frames, frames): target, source."""
        query, key, position_query = self.in_proj(x).split(self.sizes, dim=-1)
        key = self.whiten(self.balance(key))
        query, key, position_query = (_by_head(part, self.heads) for part in (query, key, position_query))
        offsets = self.linear_pos(positions).unflatten(-1, (self.heads, -1)).permute(1, 2, 0)
        scores = self.ceiling(query @ key.transpose(2, 3) + _by_source(position_query @ offsets))
        if padding_mask is not None:
            scores = scores.masked_fill(~padding_mask[:, None, None], -1000.0)
        return at_least_float32(scores).softmax(-1).to(x.dtype)


class _Attention(nn.Module):
    """Values mixed by given weights."""

    def __init__(self, width, heads, value_dim):
        super().__init__()
        self.heads = heads
        self.in_proj = Linear(width, heads * value_dim)
        self.out_proj = _linear(heads * value_dim, width, 0.05)
        self.whiten = Whitener(7.5)

    def forward(self, x, weights):
        mixed = weights @ _by_head(self.in_proj(x), self.heads)
        return self.whiten(self.out_proj(mixed.transpose(1, 2).flatten(2)))


class _NonlinearAttention(nn.Module):
    """One head's weights mix gated values, and the mixture gates another projection."""

    def __init__(self, width, inner):
        super().__init__()
        self.in_proj = Linear(width, 3 * inner)
        self.out_proj = _linear(inner, width, 0.05)
        self.balance = Balancer((0.05, 0.95), (0.5, 5.0))
        self.whiten1, self.whiten2 = Whitener(5.0), Whitener(5.0)

    def forward(self, x, weights):
        gate, value, outer = self.in_proj(x).chunk(3, dim=-1)
        value = self.whiten1(value) * self.balance(gate).tanh()
        return self.whiten2(self.out_proj(weights @ value * outer))


class _Convolution(nn.Module):
    """Gated depthwise convolution in time; padded frames are zero to it."""

    def __init__(self, width, kernel):
        super().__init__()
        self.in_proj = Linear(width, 2 * width)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.activation = SwooshR()
        self.out_proj = _linear(width, width, 0.05)
        self.balance1 = Balancer((0.025, 1.0), (1.5, 10.0))
        self.balance2 = Balancer((0.05, 1.0), (0.5, 10.0))
        self.whiten = Whitener(7.5)

    def forward(self, x, padding_mask):
        value, gate = self.in_proj(x).chunk(2, dim=-1)
        value = value * self.balance1(gate).sigmoid()
        if padding_mask is not None:
            value = value * padding_mask.unsqueeze(-1)
        value = self.depthwise_conv(value.transpose(1, 2)).transpose(1, 2)
        return self.out_proj(self.activation(self.whiten(self.balance2(value))))


class _FeedForward(nn.Module):
    """Widen, SwooshL, narrow."""

    def __init__(self, width, inner, dropout):
        super().__init__()
        self.in_proj = Linear(width, inner)
        self.balance = Balancer((0.3, 1.0), (0.75, 5.0))
        self.activation = SwooshL()
        self.dropout = Dropout(dropout)
        self.out_proj = _linear(inner, width, 0.1)
        self.whiten = Whitener(7.5)

    def forward(self, x):
        return self.whiten(self.out_proj(self.dropout(self.activation(self.balance(self.in_proj(x))))))


def _linear(inputs, outputs, scale):
    """A linear layer that starts ``scale`` times smaller than PyTorch's."""
    layer = Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.mul_(scale)
        nn.init.uniform_(layer.bias, -0.1 * scale, 0.1 * scale)
    return layer


def _by_head(x, heads):
    """(batch, frames, heads · dim) → (batch, heads, frames, dim)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _by_source(scores):
    """(…, frames, 2 · frames - 1) by offset → (…, frames, frames) by source frame: row t starts at offset -t."""
    frames = scores.shape[-2]
    flat = nn.functional.pad(scores, (0, 1)).flatten(-2)
    rows = flat[..., frames - 1 : frames - 1 + frames * (2 * frames - 1)].unflatten(-1, (frames, -1))
    return rows[..., :frames]
