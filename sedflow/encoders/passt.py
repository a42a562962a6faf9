"""Frame-wise PaSST: convolutions and a transformer over log mel, one embedding per 40 ms."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedflow.frames import FrameGrid
from sedflow.frontend import LogMel
from sedflow.layer_norm import LayerNorm
from sedflow.official import module_tensors, projection_tensors
from sedflow.products import Conv2d, linear
from sedflow.vit import Block, fixed_projection
from sedflow.waveform import checked, completed, in_parts, in_windows
from sedflow.weights import load_strict, read_checkpoint

_CHANNELS = 16  # of the maps the patches are cut from; their height is that of the mel spectrogram


class PaSST(nn.Module):
    """Frame-wise PaSST base (fPaSST).

    Parameters
    ----------
    dim, depth, heads : int
    mlp_ratio : float
    positions : int
        Length of the position table in tokens of 40 ms. Longer clips are read in overlapping windows of this length.
    dropout : float
        In the blocks, in training.
    projection : int, optional
        Width of a linear layer behind the last norm that never trains. It comes from the file, or is drawn at random
        where the file has none; CP-JKU: 527.
    mel_jitter : bool
        In training, shift the edges of the mel bank at random, batch by batch, as upstream does.
    jitter_low_hz : int
        How far up the lower edge is shifted. CP-JKU: 0.

    Source
    ------
    fschmid56/PretrainedSED 1aa47e4 models/frame_passt
    """

    sample_rate = 16000
    frame_rate = 25.0

    def __init__(  # noqa: PLR0913 (settings of a page)
        self,
        *,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        positions: int = 250,
        dropout: float = 0.0,
        projection: int | None = None,
        mel_jitter: bool = False,
        jitter_low_hz: int = 9,
    ):
        super().__init__()
        self.dim, self.positions = projection or dim, positions
        self.trained_with = {"heads": heads}
        self.grid = FrameGrid(self.frame_rate)
        self.front_end = LogMel(
            self.sample_rate, n_fft=512, window=400, hop=160, periodic=True, floor=1e-7, jitter=mel_jitter
        )
        self.front_end.jitter_low_hz = jitter_low_hz
        self.embedding = nn.Sequential()
        self.embedding.add_module("patches", _Patches(dim, self.front_end.bands))
        self.embedding.add_module("positions", _Positions(dim, positions))
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, dropout=dropout) for _ in range(depth)
        )
        self.norm = LayerNorm(dim, eps=1e-6)
        self.projection = fixed_projection(dim, projection)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) → (batch, frames, dim)."""
        waveform = checked(waveform, self.sample_rate)
        frames = self.grid.frames(waveform.shape[1] / self.sample_rate)
        if frames > self.positions + 1:
            return in_windows(self._frames, waveform, self.sample_rate, self.grid, self.positions)
        return self._frames(waveform, frames)

    def _frames(self, waveform: Tensor, frames: int) -> Tensor:
        return self._completed(self.front_end(waveform), frames)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """(batch, samples) → what the network reads, (batch, bands, time)."""
        return self.front_end(checked(waveform, self.sample_rate))

    def from_log_mel(self, log_mel: Tensor, seconds: float) -> Tensor:
        """What the network reads (batch, bands, time) → (batch, frames, dim), longer clips in windows as waveforms."""
        frames = self.grid.frames(seconds)
        if frames > self.positions + 1:
            rate = self.sample_rate / self.front_end.hop
            return in_windows(self._completed, log_mel, rate, self.grid, self.positions, frames)
        return self._completed(log_mel, frames)

    def _completed(self, log_mel: Tensor, frames: int) -> Tensor:
        return completed(self.encode(log_mel), frames)

    def tokens(self, waveform: Tensor) -> Tensor:
        """The official sequence: what lies beyond the position table is dropped."""
        return self.encode(self.front_end(waveform))

    def encode(self, log_mel: Tensor) -> Tensor:
        """Log mel (batch, bands, time) → (batch, ceil(time / 4), dim), no more than there are positions."""
        return in_parts(self._transformed, log_mel, math.ceil(log_mel.shape[2] / 4))

    def _transformed(self, log_mel: Tensor) -> Tensor:
        tokens = self.embedding(log_mel)
        for block in self.blocks:
            tokens = block(tokens)
        return self.projection(self.norm(tokens[:, 2:]))

    def layers(self) -> list[nn.Module]:
        """Convolutions and patches with positions, the blocks, the last norm."""
        return [self.embedding, *self.blocks, self.norm]

    def load_official(self, path: str | Path, network: str = "teacher") -> list[str]:
        """Load frame-wise PaSST from a file of PretrainedSED or of CP-JKU's DCASE 2024 system.

        Parameters
        ----------
        network : str    "teacher" or "student", where the file holds both

        Returns
        -------
        list of str
            Names in the file that embeddings do not need: heads, the other network, a CRNN.

        Raises
        ------
        CheckpointError    unreadable, or not a frame-wise PaSST of this size
        """
        content = read_checkpoint(path)
        tensors, others = module_tensors(content, "conv_in_1.weight", path, network=network)
        projection, taken = projection_tensors(self, content, path, network)
        load_strict(self, {_our_name(name): tensor for name, tensor in tensors.items()} | projection, path)
        return [name for name in others if name not in taken]


class _Patches(nn.Module):
    """Log mel → tokens: three convolutions that quarter the time, then patches of full height and two columns."""

    def __init__(self, dim, bands):
        super().__init__()
        self.bands = bands
        self.conv_in_1 = Conv2d(1, _CHANNELS, 3, stride=2, padding=1)
        self.conv_in_2 = Conv2d(_CHANNELS, 2 * _CHANNELS, 3, padding=1)
        self.conv_in_3 = Conv2d(2 * _CHANNELS, 4 * _CHANNELS, 3, stride=2, padding=1)
        self.proj = nn.Conv2d(_CHANNELS, dim, (bands, 2))

    def forward(self, log_mel):
        maps = log_mel.unsqueeze(1).to(self.proj.weight.dtype)
        for convolution in (self.conv_in_1, self.conv_in_2, self.conv_in_3):
            maps = convolution(maps, gelu=True)
        # (batch, 64, bands / 4, time / 4): four channels stand on each other and make one of full height
        columns = maps.flatten(1, 2).transpose(1, 2)  # (batch, tokens, 16 * bands)
        # a column and the one after it; the last has none
        pairs = torch.stack([columns, F.pad(columns[:, 1:], (0, 0, 0, 1))], dim=3)
        return linear(pairs.flatten(2), self.proj.weight.flatten(1), self.proj.bias)


class _Positions(nn.Module):
    """Time and frequency positions, and the two tokens that precede the frames."""

    def __init__(self, dim, positions):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, dim))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, dim, 1, positions))
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, tokens):
        time = self.time_new_pos_embed[:, :, 0, : tokens.shape[1]].transpose(1, 2)  # (1, tokens, dim)
        tokens = tokens[:, : time.shape[1]] + time + self.freq_new_pos_embed[:, :, 0].transpose(1, 2)
        both = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        return torch.cat([both.expand(len(tokens), -1, -1), tokens], dim=1)


def _our_name(name: str) -> str:
    name = name.replace("patch_embed.proj.", "proj.")
    if name.startswith(("conv_in_", "proj.")):
        return f"embedding.patches.{name}"
    return name if name.startswith(("blocks.", "norm.")) else f"embedding.positions.{name}"
