"""The layers of BEATs: patches and their positions, blocks with deep norm, attention whose positions are gated."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedflow.dropout import dropout
from sedflow.layer_norm import LayerNorm
from sedflow.products import Convolution, Linear, attention
from sedflow.spectrogram import KaldiFbank

PATCH = 16  # filter bank frames and bands; eight patches stand on each other in a time step
HEIGHT = KaldiFbank.bands // PATCH


class Embedding(nn.Module):
    """Filter bank → patches, projected, with convolutional positions; and the relative positions of all blocks."""

    def __init__(self, dim, heads, cfg):
        super().__init__()
        self.dropout_input, self.dropout = cfg["dropout_input"], cfg["dropout"]
        self.buckets, self.max_distance = cfg["num_buckets"], cfg["max_distance"]
        self.patch_embedding = Linear(PATCH * PATCH, cfg["embed_dim"], bias=False)
        self.layer_norm = LayerNorm(cfg["embed_dim"])
        self.post_extract_proj = Linear(cfg["embed_dim"], dim) if cfg["embed_dim"] != dim else nn.Identity()
        self.pos_conv = PositionConvolution(dim, cfg["conv_pos"], cfg["conv_pos_groups"])
        self.encoder_layer_norm = LayerNorm(dim)
        self.relative_attention_bias = nn.Embedding(self.buckets, heads)

    def forward(self, features, padding):
        """(batch, time, bands), and (batch, tokens) bool where tokens are padding → (batch, tokens, dim)."""
        steps = features.shape[1] // PATCH
        patches = features[:, : steps * PATCH].unflatten(1, (steps, PATCH)).unflatten(3, (HEIGHT, PATCH))
        patches = patches.transpose(2, 3).flatten(3).flatten(1, 2)  # (batch, steps · height, 16 · 16)
        tokens = self.layer_norm(self.patch_embedding(patches.to(self.patch_embedding.weight.dtype)))
        tokens = dropout(self.post_extract_proj(tokens), self.dropout_input, self.training)
        if padding is not None:
            tokens = tokens.masked_fill(padding.unsqueeze(2), 0)
        return dropout(self.encoder_layer_norm(tokens, self.pos_conv(tokens)), self.dropout, self.training)

    def relative_bias(self, count):
        """What attention adds for a query at i and a key at j before it is gated, (1, heads, count, count)."""
        distances = torch.arange(1 - count, count, device=self.relative_attention_bias.weight.device)
        by_distance = self.relative_attention_bias(relative_bucket(distances, self.buckets, self.max_distance))
        # row i begins at distance -i
        return by_distance.T.contiguous().unfold(1, count, 1).flip(1).unsqueeze(0)


class PositionConvolution(nn.Module):
    """A grouped convolution along the tokens, its weights normalised tap by tap, and GELU."""

    def __init__(self, dim, taps, groups):
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, taps))
        nn.init.normal_(self.weight_v, std=math.sqrt(4 / (taps * dim)))
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(self.weight_v.detach(), dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(dim))
        self._sides = (taps // 2, (taps - 1) // 2)
        self._convolution = Convolution(_normalised, groups=groups)

    def forward(self, tokens):
        """(batch, tokens, dim) → the same."""
        # (batch, dim, 1, tokens) with dim last in memory, which is how tokens lie there already; oneDNN is faster on
        # zeros that it finds around them than on zeros that it has to add
        maps = F.pad(tokens, (0, 0, *self._sides)).transpose(1, 2).unsqueeze(2)
        convolved = self._convolution(maps, self.bias, self.weight_g, self.weight_v, gelu=True)
        return convolved.squeeze(2).transpose(1, 2)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each with a residual that deep norm scales up, and a norm behind it."""

    def __init__(self, dim, depth, heads, cfg):
        super().__init__()
        self.alpha = (2 * depth) ** 0.25
        self.dropout, self.activation_dropout = cfg["dropout"], cfg["activation_dropout"]
        self.layer_drop = cfg["encoder_layerdrop"]
        self.self_attn = Attention(dim, heads, cfg["attention_dropout"])
        self.self_attn_layer_norm = LayerNorm(dim)
        self.fc1 = Linear(dim, cfg["encoder_ffn_embed_dim"])
        self.fc2 = Linear(cfg["encoder_ffn_embed_dim"], dim)
        self.final_layer_norm = LayerNorm(dim)
        for layer in (self.self_attn.out_proj, self.fc1, self.fc2):
            nn.init.xavier_normal_(layer.weight, gain=(8 * depth) ** -0.25)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens, bias, padding):
        """(batch, tokens, dim), `Embedding.relative_bias`, (batch, tokens) bool or None → (batch, tokens, dim)."""
        attended = dropout(self.self_attn(tokens, bias, padding), self.dropout, self.training)
        middle = self.self_attn_layer_norm(attended, tokens, self.alpha)
        wide = dropout(self.fc1(middle, gelu=True), self.activation_dropout, self.training)
        narrow = dropout(self.fc2(wide), self.dropout, self.training)
        output = self.final_layer_norm(narrow, middle, self.alpha)
        if self.training and self.layer_drop:
            # computed in any case: every parameter has a gradient, which distributed training waits for
            return torch.where(torch.rand((), device=tokens.device) < self.layer_drop, tokens.to(output.dtype), output)
        return output


class Attention(nn.Module):
    """Attention with relative positions that each query gates.

    A gate has two halves a and b, sums of four of the eight outputs of ``grep_linear``; the bias counts
    a · (b · grep_a - 1) + 2 times.
    """

    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = Linear(dim, 3 * dim)
        self.out_proj = Linear(dim, dim)
        self.grep_linear = Linear(dim // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, tokens, bias, padding):
        """(batch, tokens, dim), `Embedding.relative_bias`, (batch, tokens) bool or None → (batch, tokens, dim)."""
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # eight outputs summed in groups of four are two outputs of summed weights
        weight, offset = self.grep_linear.weight.unflatten(0, (2, 4)).sum(1), self.grep_linear.bias.view(2, 4).sum(1)
        first, second = F.linear(queries, weight, offset).sigmoid().split(1, dim=3)
        gate = (first * (second * self.grep_a - 1.0) + 2.0).to(queries.dtype)  # (batch, heads, queries, 1)
        if padding is not None:
            bias = (gate * bias).masked_fill(padding[:, None, None, :], torch.finfo(bias.dtype).min)
            gate = None
        mixed = attention(queries, keys, values, bias, gate, self.dropout if self.training else 0.0)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


def _normalised(length, direction):
    """Taps of these lengths and directions as a convolution takes them, (dim, dim / groups, 1, taps)."""
    exact = direction.float()
    norm = exact.flatten(0, 1).square().sum(dim=0).sqrt()
    weight = (exact * (length.float() / norm)).to(direction.dtype)
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def relative_bucket(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """Row of the relative position table for key minus query: exact when near, logarithmic up to ``max_distance``."""
    side = buckets // 2
    exact = side // 2
    far = torch.log(distance.abs().clamp(min=1).float() / exact) / math.log(max_distance / exact) * (side - exact)
    far = (exact + far.long()).clamp(max=side - 1)
    return (distance > 0) * side + torch.where(distance.abs() < exact, distance.abs(), far)
