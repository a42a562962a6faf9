"""The convolutional encoder of the DCASE Task 4 baselines and ATST-SED, one embedding per 64 ms."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedflow.dropout import Dropout
from sedflow.frames import FrameGrid
from sedflow.layers import BatchNorm2d
from sedflow.official import module_tensors
from sedflow.precision import InFloat32
from sedflow.products import Linear
from sedflow.spectrogram import MelSpectrogram
from sedflow.waveform import checked, completed, padded
from sedflow.weights import load_strict, read_checkpoint

BANDS = 128
_EPSILON = 1e-8
_CHANNELS = [16, 32, 64, 128, 128, 128, 128]
_POOLING = [[2, 2], [2, 2], [1, 2], [1, 2], [1, 2], [1, 2], [1, 2]]


class CNN(nn.Module):
    """Seven blocks of convolution, batch norm, gate, dropout and average pooling on scaled log mel.

    Parameters
    ----------
    gate : str
        "cg": context gating, x · σ(linear(x)). "glu": linear(x) · σ(x), the baselines of 2021 to 2024.
    dropout : float
    scale : str
        What a clip's log mel is stretched to. "unit": [0, 1] (ATST-SED, baselines to 2023); "symmetric": [-1, 1].
    channels : list of int, optional
        Of each block; 16, 32, 64 and four times 128 if unset.
    pooling : list of [int, int], optional
        Of each block, in time and frequency; (2, 2) twice and (1, 2) five times if unset.
    momentum : float
        Of the batch norms. 0.99 is the published value: their statistics are almost those of the last batch.

    Source
    ------
    Audio-WestlakeU/ATST-SED 7ebf531 desed_task/nnet/CNN.py, train/local/ultra_sed_trainer.py
    """

    sample_rate = 16000

    def __init__(
        self,
        *,
        gate: str = "cg",
        dropout: float = 0.5,
        scale: str = "unit",
        channels: list[int] | None = None,
        pooling: list[list[int]] | None = None,
        momentum: float = 0.99,
    ):
        super().__init__()
        channels, pooling = channels or _CHANNELS, pooling or _POOLING
        if gate not in _GATES:
            raise ValueError(f"gate {gate!r} is none of {', '.join(_GATES)}")
        if scale not in ("unit", "symmetric"):
            raise ValueError(f"scale {scale!r} is neither 'unit' nor 'symmetric'")
        if len(channels) != len(pooling):
            raise ValueError(
                f"{len(channels)} channels and {len(pooling)} poolings; there must be one of each per block"
            )
        self.scale = scale
        self.trained_with = {"scale": scale, "pooling": [list(size) for size in pooling]}
        self.spectrogram = MelSpectrogram(
            self.sample_rate,
            n_fft=2048,
            hop=256,
            bands=BANDS,
            low_hz=0,
            high_hz=8000,
            window=torch.hamming_window(2048, periodic=False),
            power=1,
        )
        self.blocks = nn.ModuleList(
            _Block(channels_in, channels_out, gate=_GATES[gate], dropout=dropout, pool=tuple(pool), momentum=momentum)
            for channels_in, channels_out, pool in zip([1, *channels], channels, pooling, strict=False)
        )
        self.pooled = math.prod(time for time, _ in pooling)
        self.frame_rate = self.sample_rate / self.spectrogram.hop / self.pooled
        self.grid = FrameGrid(self.frame_rate)
        height = BANDS
        for _, frequency in pooling:
            height //= frequency
        self.dim = channels[-1] * height

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) → (batch, frames, dim)."""
        waveform = checked(waveform, self.sample_rate)
        frames = self.grid.frames(waveform.shape[1] / self.sample_rate)
        waveform = padded(waveform, self.pooled * self.spectrogram.hop)  # at least one frame
        return completed(self.encode(self.features(self.spectrogram(waveform))), frames)

    def features(self, magnitude: Tensor) -> Tensor:
        """Mel magnitude (batch, bands, time) → decibels in -50…80, stretched clip by clip to the range of ``scale``."""
        with torch.autocast(magnitude.device.type, enabled=False):
            decibels = (20.0 * magnitude.clamp(min=1e-5).log10()).clamp(-50.0, 80.0)
            low, high = (extreme(decibels, dim=(1, 2), keepdim=True) for extreme in (torch.amin, torch.amax))
            unit = (decibels - low) / (high - low + _EPSILON)
            return unit if self.scale == "unit" else unit * 2.0 - 1.0

    def encode(self, features: Tensor) -> Tensor:
        """Features (batch, bands, time) → (batch, frames, dim), the official sequence."""
        maps = features.transpose(1, 2).unsqueeze(1).to(self.blocks[0].conv.weight.dtype)
        for block in self.blocks:
            maps = block(maps)
        return maps.transpose(1, 2).flatten(2)  # what is left of the frequency axis counts as channels

    def layers(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.blocks)

    def load_official(self, path: str | Path, network: str = "teacher") -> list[str]:
        """Load the CNN of a DCASE Task 4 baseline's, ATST-SED's or CP-JKU's checkpoint.

        Parameters
        ----------
        network : str    "teacher" or "student", where the file holds both

        Returns
        -------
        list of str
            Names in the file that embeddings do not need: recurrent layers, heads, a transformer, the other network.

        Raises
        ------
        CheckpointError    unreadable, or not a CNN of this size and gate
        """
        tensors, others = module_tensors(read_checkpoint(path), "conv0.weight", path, network=network)
        load_strict(self, {self._our_name(name): tensor for name, tensor in tensors.items()}, path)
        return others

    def _our_name(self, name: str) -> str:
        part, _, rest = name.partition(".")
        kind = part.rstrip("0123456789")
        number = part.removeprefix(kind)
        ours = {"conv": "conv", "batchnorm": "norm", self.blocks[0].gate.official_name: "gate"}
        return f"blocks.{number}.{ours[kind]}.{rest}" if kind in ours else name


class _Block(nn.Module):
    """Convolution, batch norm, gate, dropout, average pooling over (time, frequency)."""

    def __init__(self, channels_in, channels_out, *, gate, dropout, pool, momentum):
        super().__init__()
        self.dropout, self.pool = Dropout(dropout), pool
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = _Norm(channels_out, eps=1e-3, momentum=momentum)
        self.gate = gate(channels_out)

    def forward(self, maps):
        maps = self.gate(self._normed(maps.contiguous(memory_format=torch.channels_last)))
        return F.avg_pool2d(self.dropout(maps), self.pool)

    def _normed(self, maps):
        if self.norm.training:
            return self.norm(self.conv(maps))
        # fixed statistics: the norm is part of the convolution, and no extra pass over the maps is needed
        factor = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
        weight = self.conv.weight * factor[:, None, None, None]
        bias = (self.conv.bias - self.norm.running_mean) * factor + self.norm.bias
        dtype = self.conv.weight.dtype
        return F.conv2d(maps, weight.to(dtype), bias.to(dtype), padding=1)


class _Norm(InFloat32, BatchNorm2d):
    pass


class _ContextGate(nn.Module):
    """x · σ(linear(x)), the linear layer acting on channels."""

    official_name = "cg"

    def __init__(self, channels):
        super().__init__()
        self.linear = Linear(channels, channels)

    def forward(self, maps):
        # channels are last in memory, so that this is a view and not a copy
        last = maps.permute(0, 2, 3, 1)
        return (last * self.linear(last).sigmoid()).permute(0, 3, 1, 2)


class _GatedLinear(_ContextGate):
    """linear(x) · σ(x)."""

    official_name = "glu"

    def forward(self, maps):
        last = maps.permute(0, 2, 3, 1)
        return (self.linear(last) * last.sigmoid()).permute(0, 3, 1, 2)


_GATES = {"cg": _ContextGate, "glu": _GatedLinear}
