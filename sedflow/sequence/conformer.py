"""CONFORMER: torchaudio's Conformer as a sequence head."""

from __future__ import annotations

import torch
import torchaudio
from torch import nn

from sedflow.layers import at_least_float32, divided, key_mask, projection, split_heads, with_our_layers
from sedflow.products import attention, linear
from sedflow.weights import load_strict


class Conformer(nn.Module):
    """A linear projection and Conformer layers: half feed-forward, attention, convolution, half feed-forward, norm.

    Parameters
    ----------
    dim : int    width of the embeddings
    width : int    width of the head
    layers, heads : int
    feed_forward : int    width of the feed-forward blocks
    kernel : int    frames of the depthwise convolution, odd
    dropout : float
    group_norm : bool    normalise each clip over time and channels, instead of each channel over the batch
    convolution_first : bool    convolution before attention
    padding_leaks : bool    as torchaudio: padding is hidden from attention, but seen by convolutions and their norms

    Source
    ------
    torchaudio 2.11 models/conformer.py; Gulati et al., arXiv:2005.08100.
    """

    def __init__(  # noqa: PLR0913 (one entry per row of the paper's table)
        self,
        dim,
        *,
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        feed_forward: int = 1024,
        kernel: int = 31,
        dropout: float = 0.1,
        group_norm: bool = False,
        convolution_first: bool = False,
        padding_leaks: bool = False,
    ):
        super().__init__()
        self.dim = width
        self.padding_leaks = padding_leaks
        self.project = projection(dim, width)
        self.conformer = torchaudio.models.Conformer(
            input_dim=width,
            num_heads=divided(width, heads),
            ffn_dim=feed_forward,
            num_layers=layers,
            depthwise_conv_kernel_size=kernel,
            dropout=dropout,
            use_group_norm=group_norm,
            convolution_first=convolution_first,
        )
        with_our_layers(self.conformer)

    def forward(self, embeddings, padding_mask=None):
        """(batch, frames, dim) → (batch, frames, width)."""
        hidden = self.project(embeddings)
        for layer in self.conformer.conformer_layers:
            hidden = _transform(layer, hidden, padding_mask, None if self.padding_leaks else padding_mask)
        return hidden

    def load_official(self, tensors):
        """Take a state dict of ``torchaudio.models.Conformer``; it has no projection, so ``width`` must be ``dim``."""
        load_strict(self, {f"conformer.{name}": tensor for name, tensor in tensors.items()}, "conformer")


def _transform(layer, x, attention_mask, convolution_mask):
    """What a ``ConformerLayer`` does, with padding kept out of its convolution as well."""
    x = x + 0.5 * layer.ffn1(x)
    if layer.convolution_first:
        x = x + _convolve(layer.conv_module, x, convolution_mask)
    x = x + _attend(layer, x, attention_mask)
    if not layer.convolution_first:
        x = x + _convolve(layer.conv_module, x, convolution_mask)
    return layer.final_layer_norm(x + 0.5 * layer.ffn2(x))


def _attend(layer, x, padding_mask):
    own = layer.self_attn
    together = linear(layer.self_attn_layer_norm(x), own.in_proj_weight, own.in_proj_bias)
    mixed = attention(
        *split_heads(together, own.num_heads),
        key_mask(padding_mask),
        dropped=own.dropout if own.training else 0.0,
    )
    attended = linear(mixed.transpose(1, 2).flatten(2), own.out_proj.weight, own.out_proj.bias)
    return layer.self_attn_dropout(attended)


def _convolve(module, x, padding_mask):
    if padding_mask is None:
        return module(x)
    pointwise, glu, depthwise, norm, *rest = module.sequential
    gated = glu(pointwise(module.layer_norm(x).transpose(1, 2))) * padding_mask.unsqueeze(1)
    hidden = _normalise_real(norm, depthwise(gated), padding_mask)
    for stage in rest:
        hidden = stage(hidden)
    return hidden.transpose(1, 2)


def _normalise_real(norm, x, padding_mask):
    """Apply a batch or group norm to (batch, channels, frames) with statistics of the real frames alone."""
    if isinstance(norm, nn.GroupNorm):
        exact = at_least_float32(x)
        share = padding_mask.unsqueeze(1) / (x.shape[1] * padding_mask.sum(1).clamp(min=1)[:, None, None])
        mean = (exact * share).sum((1, 2), keepdim=True)
        variance = ((exact - mean).square() * share).sum((1, 2), keepdim=True)
        scale = (variance + norm.eps).rsqrt() * norm.weight.unsqueeze(1)
        return ((exact - mean) * scale + norm.bias.unsqueeze(1)).to(x.dtype)
    if not norm.training:
        return norm(x)
    frames = x.transpose(1, 2)
    normalised = torch.zeros_like(frames)
    normalised[padding_mask] = norm(frames[padding_mask])
    return normalised.transpose(1, 2)
