"""ZIPFORMER: Zipformer2, stacks of layers at several frame rates."""

from __future__ import annotations

import re

import torch
from torch import nn

from sedflow.dropout import Dropout
from sedflow.products import Linear
from sedflow.regularisers import Balancer, Whitener, switch_off
from sedflow.weights import load_strict
from sedflow.zipformer_layer import BiasNorm, Bypass, SwooshL, SwooshR, ZipformerLayer, relative_positions

# stands in official files, unused by the official code
_IDLE = re.compile(r"layers\.\d+\.bypass_scale$")


class Zipformer(nn.Module):
    """Stacks of layers, each at its own frame rate and width; the widest outputs, last stack first, are the result.

    A setting per stack has one entry for each, or one for all.

    Parameters
    ----------
    dim : int    width of the embeddings
    downsampling : per stack    frames averaged into one
    widths, layers, heads, kernels : per stack
    feed_forward : per stack    width of the second of a layer's three feed-forward blocks
    query_dims, position_dims, value_dims : per stack    of one head
    position_dim : int    width of the relative position code
    dropout, skip : float    in training: of activations; of whole layers, clip by clip
    output_downsampling : int    frames of the last output averaged into one, then repeated
    channels : three, or none    of a 2-D convolutional input that halves the frame rate; none: a linear input
    regularise : bool    balancers, whiteners and a ceiling on attention scores, in training
    padding_leaks : bool    as icefall: the last average of a clip takes in padding

    Source
    ------
    Yao et al., arXiv:2310.11230; k2-fsa/icefall 36e0420 egs/librispeech/ASR/zipformer. Submodules carry its names.
    """

    def __init__(  # noqa: PLR0913 (one entry per row of the paper's table)
        self,
        dim,
        *,
        downsampling: tuple[int, ...] = (1, 2, 4, 2),
        widths: tuple[int, ...] = (128, 192, 256, 192),
        layers: tuple[int, ...] = (1,),
        heads: tuple[int, ...] = (4, 4, 8, 4),
        feed_forward: tuple[int, ...] = (256, 384, 512, 384),
        kernels: tuple[int, ...] = (31, 31, 15, 31),
        query_dims: tuple[int, ...] = (32,),
        position_dims: tuple[int, ...] = (4,),
        value_dims: tuple[int, ...] = (12,),
        position_dim: int = 48,
        dropout: float = 0.1,
        skip: float = 0.05,
        output_downsampling: int = 1,
        channels: tuple[int, ...] = (),
        regularise: bool = False,
        padding_leaks: bool = False,
    ):
        super().__init__()
        self.dim = max(widths)
        self.rate = output_downsampling * (2 if channels else 1)
        if channels:
            self.encoder_embed = _ConvolutionalInput(dim, channels, widths[0], dropout)
        else:
            self.encoder_embed = _LinearInput(dim, widths[0], dropout)
        stacks = _per_stack(
            len(downsampling),
            width=widths,
            layers=layers,
            heads=heads,
            feed_forward=feed_forward,
            kernel=kernels,
            query_dim=query_dims,
            position_head_dim=position_dims,
            value_dim=value_dims,
        )
        shared = {"position_dim": position_dim, "dropout": dropout, "skip": skip}
        self.encoder = _Encoder([stack | shared for stack in stacks], downsampling, output_downsampling, padding_leaks)
        if not regularise:
            switch_off(self)

    def forward(self, embeddings, padding_mask=None):
        """(batch, frames, dim) → (batch, frames, widest stack)."""
        hidden, mask = self.encoder_embed.align(embeddings, padding_mask)
        return self.encoder(hidden, mask).repeat_interleave(self.rate, dim=1)[:, : embeddings.shape[1]]

    def load_official(self, tensors) -> list[str]:
        """Take ``encoder_embed.*`` and ``encoder.*`` of an official file.

        Returns
        -------
        list of str    what was left out: idle tensors, and ``encoder_embed.*`` where this head has a linear input
        """
        ignored, own = [name for name in tensors if _IDLE.search(name)], {}
        if isinstance(self.encoder_embed, _LinearInput):
            ignored += [name for name in tensors if name.startswith("encoder_embed.")]
            own = {f"encoder_embed.{name}": tensor for name, tensor in self.encoder_embed.state_dict().items()}
        taken = {name: tensor for name, tensor in tensors.items() if name not in ignored}
        load_strict(self, taken | own, "zipformer")
        return ignored


def _per_stack(count, **settings):
    """One dictionary per stack from settings that have ``count`` entries, or one for all."""
    for name, values in settings.items():
        if len(values) not in (1, count):
            raise ValueError(f"zipformer: {name} has {len(values)} entries for {count} stacks; give {count}, or one")
    return [{name: values[k % len(values)] for name, values in settings.items()} for k in range(count)]


class _LinearInput(nn.Module):
    def __init__(self, dim, width, dropout):
        super().__init__()
        self.out = Linear(dim, width)
        self.out_norm = BiasNorm(width)
        self.dropout = Dropout(dropout)

    def align(self, embeddings, padding_mask):
        """→ (batch, frames, width) and its mask."""
        return self.dropout(self.out_norm(self.out(embeddings))), padding_mask


class _ConvolutionalInput(nn.Module):
    """2-D convolutions over frames and features, a ConvNeXt block, a linear layer."""

    def __init__(self, features, channels, width, dropout):
        super().__init__()
        first, second, third = channels
        self.conv = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=(0, 1)),
            nn.Identity(),  # keeps the official numbering
            Balancer((0.05, 0.95), (0.2, 1.0), axis=1),
            SwooshR(),
            nn.Conv2d(first, second, 3, stride=2),
            Balancer((0.05, 0.95), (0.2, 4.0), axis=1),
            SwooshR(),
            nn.Conv2d(second, third, 3, stride=(1, 2)),
            Balancer((0.05, 0.95), (0.2, 4.0), axis=1),
            SwooshR(),
        )
        self.convnext = _ConvNeXt(third)
        self.out = Linear(third * (((features - 1) // 2 - 1) // 2), width)
        self.whiten = Whitener(4.0, strength=0.02)
        self.out_norm = BiasNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, features, padding_mask=None):
        """(batch, T, features) → (batch, (T - 7) // 2, width), as long as the mask, which the ConvNeXt block heeds."""
        hidden = self.conv(features.unsqueeze(1))  # (batch, channels, frames, features)
        if padding_mask is not None:
            hidden = hidden * padding_mask[:, None, :, None]
        hidden = self.out(self.convnext(hidden).transpose(1, 2).flatten(2))
        return self.dropout(self.out_norm(self.whiten(hidden)))

    def align(self, features, padding_mask):
        """→ (batch, ⌈T / 2⌉, width) and its mask: zeros stand before and behind every clip."""
        if padding_mask is not None:
            features, padding_mask = features * padding_mask.unsqueeze(-1), padding_mask[:, ::2]
        return self(nn.functional.pad(features, (0, 0, 4, 4)), padding_mask), padding_mask


class _ConvNeXt(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.pointwise_conv1 = nn.Conv2d(channels, 3 * channels, 1)
        self.activation = SwooshL()
        self.pointwise_conv2 = nn.Conv2d(3 * channels, channels, 1)

    def forward(self, x):
        return x + self.pointwise_conv2(self.activation(self.pointwise_conv1(self.depthwise_conv(x))))


class _Encoder(nn.Module):
    """The stacks in turn, each fed the previous output cut or zero-filled to its width."""

    def __init__(self, stacks, downsampling, output_downsampling, padding_leaks):
        super().__init__()
        self.widths = [stack["width"] for stack in stacks]
        self.encoders = nn.ModuleList(
            _Stack(**stack) if factor == 1 else _DownsampledStack(factor, padding_leaks, stack)
            for stack, factor in zip(stacks, downsampling, strict=True)
        )
        self.downsample_output = _Downsample(output_downsampling, padding_leaks) if output_downsampling > 1 else None

    def forward(self, hidden, padding_mask=None):
        """(batch, frames, first width) → (batch, ⌈frames / output_downsampling⌉, greatest width)."""
        outputs = []
        for stack, width in zip(self.encoders, self.widths, strict=True):
            hidden = stack(nn.functional.pad(hidden, (0, width - hidden.shape[-1])), padding_mask)
            outputs.append(hidden)
        widest = outputs.pop()
        while outputs:
            widest = torch.cat((widest, outputs.pop()[..., widest.shape[-1] :]), dim=-1)
        return widest if self.downsample_output is None else self.downsample_output(widest, padding_mask)


class _Stack(nn.Module):
    """Layers at one frame rate."""

    def __init__(self, *, layers, position_dim, **settings):
        super().__init__()
        self.position_dim = position_dim
        self.dropout = Dropout(settings["dropout"])
        self.layers = nn.ModuleList(ZipformerLayer(position_dim=position_dim, **settings) for _ in range(layers))

    def forward(self, x, padding_mask):
        positions = self.dropout(relative_positions(x.shape[1], self.position_dim, x))
        for layer in self.layers:
            x = layer(x, positions, padding_mask)
        return x


class _DownsampledStack(nn.Module):
    """Average frames, run a stack, repeat its frames, and mix them with the input."""

    def __init__(self, factor, padding_leaks, stack):
        super().__init__()
        self.factor = factor
        self.downsample = _Downsample(factor, padding_leaks)
        self.encoder = _Stack(**stack)
        self.out_combiner = Bypass(stack["width"])

    def forward(self, x, padding_mask):
        slow_mask = None if padding_mask is None else padding_mask[:, :: self.factor]
        slow = self.encoder(self.downsample(x, padding_mask), slow_mask)
        return self.out_combiner(x, slow.repeat_interleave(self.factor, dim=1)[:, : x.shape[1]])


class _Downsample(nn.Module):
    """Weighted mean of ``factor`` neighbouring frames; the last frame of a clip is repeated to fill its group."""

    def __init__(self, factor, padding_leaks):
        super().__init__()
        self.factor, self.padding_leaks = factor, padding_leaks
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x, padding_mask):
        missing = -x.shape[1] % self.factor
        index = torch.arange(x.shape[1] + missing, device=x.device).clamp(max=x.shape[1] - 1)
        if padding_mask is None or self.padding_leaks:
            x = x[:, index]
        else:
            last = padding_mask.sum(1, keepdim=True).clamp(min=1) - 1
            x = x.gather(1, torch.minimum(index, last).unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return (x.unflatten(1, (-1, self.factor)) * self.bias.softmax(0).unsqueeze(-1)).sum(2)
