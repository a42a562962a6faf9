"""Layers that several networks share, and how official tensors get into them.

A padding mask is (batch, frames) bool, True where a frame is real; None means that all are.
"""

from __future__ import annotations

import torch
from torch import nn

from sedflow.dropout import Dropout
from sedflow.precision import InFloat32
from sedflow.products import Linear, attention


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis and scale, in float32 at least.

    Source
    ------
    theMoro/EfficientSED 7bef42e: x / max(‖x‖, 1e-12) · √dim · gamma.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        """(…, dim) → the same shape."""
        unit = nn.functional.normalize(at_least_float32(x), dim=-1)
        return (unit * x.shape[-1] ** 0.5 * self.gamma).to(x.dtype)


class Rotary(InFloat32, nn.Module):
    """Rotate the pairs (2i, 2i + 1) of queries or keys by position · freqs[i]: dot products see relative positions.

    ``freqs`` is stored in official checkpoints and never trained. It stays float32, as angles are: an error in it grows
    with the position.
    """

    def __init__(self, head_dim: int):
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even width per head, got {head_dim}; change heads or width")
        freqs = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
        self.freqs = nn.Parameter(freqs, requires_grad=False)

    def forward(self, x):
        """(batch, heads, frames, head_dim) → the same, rotated."""
        freqs = at_least_float32(self.freqs)
        angles = torch.arange(x.shape[-2], device=x.device, dtype=freqs.dtype).unsqueeze(1) * freqs
        cos, sin = angles.cos(), angles.sin()
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)


class GatedAttention(nn.Module):
    """Pre-normalised self-attention with rotary positions; each head's output has its own sigmoid gate.

    Source
    ------
    theMoro/EfficientSED 7bef42e models/sequence_models/roformer/attention.py; submodules carry its names.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = divided(dim, heads)
        self.dropout = dropout
        self.norm = RMSNorm(dim)
        self.to_qkv = Linear(dim, 3 * dim, bias=False)
        self.to_gates = nn.Linear(dim, heads)
        self.to_out = nn.Sequential(Linear(dim, dim, bias=False), Dropout(dropout))
        self.pos_encoding = Rotary(dim // heads)

    def forward(self, x, padding_mask=None):
        """(batch, frames, dim) → the same shape; the residual is the caller's."""
        hidden = self.norm(x)
        query, key, value = split_heads(self.to_qkv(hidden), self.heads)
        attended = attention(
            self.pos_encoding(query),
            self.pos_encoding(key),
            value,
            key_mask(padding_mask),
            dropped=self.dropout if self.training else 0.0,
        )
        gates = self.to_gates(hidden).sigmoid()  # (batch, frames, heads)
        return self.to_out((attended.transpose(1, 2) * gates.unsqueeze(-1)).flatten(2))


def divided(dim: int, heads: int) -> int:
    """``heads``, once it is known to divide ``dim``."""
    if dim % heads:
        raise ValueError(f"width {dim} cannot be divided among {heads} heads; choose a number of heads that divides it")
    return heads


def split_heads(qkv, heads: int):
    """(batch, frames, 3 · dim) → query, key, value, each (batch, heads, frames, dim / heads)."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def key_mask(padding_mask):
    """Padding mask as attention takes it: (batch, 1, 1, frames), so that no query sees a padded key."""
    return None if padding_mask is None else padding_mask[:, None, None, :]


def at_least_float32(x):
    """Half precisions become float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def projection(dim: int, width: int) -> nn.Module:
    """A linear layer from ``dim`` to ``width``, or nothing where they agree."""
    return nn.Identity() if dim == width else Linear(dim, width)


def with_our_layers(network: nn.Module) -> None:
    """Put our linear layers and dropouts in the place of PyTorch's, weights and names kept."""
    for module in network.modules():
        for name, layer in module.named_children():
            if type(layer) is nn.Dropout:
                setattr(module, name, Dropout(layer.p))
            elif type(layer) is nn.Linear:
                with torch.random.fork_rng(devices=[]):  # what is drawn here is thrown away
                    ours = Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
                ours.weight, ours.bias = layer.weight, layer.bias
                setattr(module, name, ours)


def initialise_small(module: nn.Module) -> None:
    """Draw every linear layer's weights from N(0, 0.02²) and zero its bias (EfficientSED's TF and ATT)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def from_sequential(tensors: dict, *prefixes: str) -> dict:
    """Rename the numbered entries of an official ``nn.Sequential``: ``k.rest`` becomes ``prefixes[k] + rest``."""
    renamed = {}
    for name, tensor in tensors.items():
        number, _, rest = name.partition(".")
        known = number.isdecimal() and int(number) < len(prefixes)
        renamed[prefixes[int(number)] + rest if known else name] = tensor
    return renamed


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm of maps whose channels are last in memory.

    In training on a processor PyTorch's adds up millions of such values one by one, and statistics are 3e-4 off. With
    the channels first they are right, but two copies there and two back take longer than the norm.
    """

    def forward(self, maps):
        """(batch, channels, height, width) → the same, channels last."""
        if not self.training or maps.device.type != "cpu":
            return super().forward(maps)
        return batch_normed(self, maps, lambda *sums: sums)


def batch_normed(norm, maps, total):
    """What a batch norm makes of a batch in training; its running statistics move.

    Parameters
    ----------
    norm : batch norm    with weight, bias and momentum
    maps : (batch, channels, …)    quickest with the channels last in memory
    total : callable    sums over these maps → over all maps that the statistics are of; asked twice forward, once back
    """
    normed, mean, variance = _BatchNorm.apply(maps, norm.weight, norm.bias, norm.eps, total)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance, norm.momentum)
    return normed


class _BatchNorm(torch.autograd.Function):
    """PyTorch's passes over maps with the channels last, sums taken row by row and clip by clip."""

    @staticmethod
    def forward(ctx, maps, weight, bias, eps, total):
        clips = maps.movedim(1, -1)
        sums = sum(_row_sums(at_least_float32(clip)) for clip in clips)
        sums, count = total(sums, sums.new_tensor([maps.numel() / maps.shape[1]]))
        mean = sums / count
        (squares,) = total(sum(_row_sums((clip - mean).square_()) for clip in clips))
        variance = squares / count
        ctx.total = total
        ctx.save_for_backward(maps, weight, mean, torch.rsqrt(variance + eps), count)
        unbiased = variance * (count / (count - 1))
        ctx.mark_non_differentiable(mean, unbiased)
        return torch.native_batch_norm(maps, weight, bias, mean, variance, False, 0.0, eps)[0], mean, unbiased

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient, *_):
        maps, weight, mean, inverse, count = ctx.saved_tensors
        by_maps = torch.empty_like(maps)
        clips = [part.movedim(1, -1) for part in (maps, gradient, by_maps)]
        by_weight = sum(_row_sums((clip - mean).mul_(pull)) for clip, pull, _ in zip(*clips, strict=True)) * inverse
        by_bias = sum(_row_sums(at_least_float32(pull)) for pull in clips[1])
        # every map moves the statistics, and so what comes back to all of them
        all_by_weight, all_by_bias = ctx.total(by_weight, by_bias)
        # what the maps get is linear in what comes back and in the maps themselves
        scale, slope = weight * inverse, -weight * inverse.square() * all_by_weight / count
        offset = -scale * all_by_bias / count - slope * mean
        for clip, pull, target in zip(*clips, strict=True):
            torch.addcmul(torch.addcmul(offset, pull, scale), clip, slope, out=target)
        return by_maps, by_weight, by_bias, None, None


def _row_sums(clip):
    """(height, width, channels), or fewer axes before the channels → (channels,)."""
    while clip.dim() > 1:
        clip = clip.sum(dim=-2)
    return clip
