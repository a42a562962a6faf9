"""ATST-Frame: a transformer over mel patches of full height, one embedding per 40 ms."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sedflow.frames import FrameGrid
from sedflow.layer_norm import LayerNorm
from sedflow.official import module_tensors, projection_tensors
from sedflow.products import Linear
from sedflow.spectrogram import MelSpectrogram
from sedflow.vit import Block, fixed_projection
from sedflow.waveform import checked, completed, in_parts, in_windows, padded
from sedflow.weights import load_strict, read_checkpoint

BANDS = 64
_PATCH = 4  # mel frames per token
# decibels that become -1 and 1
_LOWEST_DB, _HIGHEST_DB = -79.6482, 50.6842


class ATST(nn.Module):
    """ATST-Frame base.

    Parameters
    ----------
    dim, depth, heads : int
    mlp_ratio : float
    positions : int
        Length of the position table in tokens of 40 ms. Longer clips are read in overlapping windows of this length.
    dropout : float
        In the blocks, and the chance to skip a block's branches, rising from 0 to this with depth; in training.
    projection : int, optional
        Width of a linear layer behind the last norm that never trains. It comes from the file, or is drawn at random
        where the file has none; CP-JKU: 527.
    top_db_over : str
        Energies more than 80 dB below the loudest one count as that. "clip": the loudest of the clip, of each window
        where a clip is read in windows. "batch": of the whole batch, as upstream, where a clip's embeddings depend on
        its neighbours.

    Source
    ------
    Audio-WestlakeU/ATST-SED 7ebf531 desed_task/nnet/atst; Audio-WestlakeU/audiossl ec3a14d methods/atstframe
    """

    sample_rate = 16000
    frame_rate = 25.0

    def __init__(
        self,
        *,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        positions: int = 250,
        dropout: float = 0.0,
        projection: int | None = None,
        top_db_over: str = "clip",
    ):
        super().__init__()
        if top_db_over not in ("clip", "batch"):
            raise ValueError(f"top_db_over {top_db_over!r} is neither 'clip' nor 'batch'")
        self.dim, self.positions, self.top_db_over = projection or dim, positions, top_db_over
        self.trained_with = {"heads": heads}
        self.grid = FrameGrid(self.frame_rate)
        self.spectrogram = MelSpectrogram(
            self.sample_rate,
            n_fft=1024,
            hop=160,
            bands=BANDS,
            low_hz=60,
            high_hz=7800,
            window=torch.hann_window(1024),
            power=2,
        )
        self.embedding = _Embedding(dim, positions)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=False,
                dropout=dropout,
                drop_path=dropout * number / max(1, depth - 1),
            )
            for number in range(depth)
        )
        self.norm_frame = LayerNorm(dim, eps=1e-6)
        self.projection = fixed_projection(dim, projection)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) → (batch, frames, dim)."""
        waveform = checked(waveform, self.sample_rate)
        frames = self.grid.frames(waveform.shape[1] / self.sample_rate)
        if frames > self.positions + 1:
            return in_windows(self._frames, waveform, self.sample_rate, self.grid, self.positions)
        return self._frames(waveform, frames)

    def _frames(self, waveform: Tensor, frames: int) -> Tensor:
        waveform = padded(waveform, _PATCH * self.spectrogram.hop)  # at least one token
        return self._completed(self.features(self.spectrogram(waveform)), frames)

    def from_log_mel(self, features: Tensor, seconds: float) -> Tensor:
        """Features (batch, bands, time) → (batch, frames, dim), longer clips in windows as waveforms."""
        frames = self.grid.frames(seconds)
        if frames > self.positions + 1:
            rate = self.sample_rate / self.spectrogram.hop
            return in_windows(self._completed, features, rate, self.grid, self.positions, frames)
        return self._completed(features, frames)

    def _completed(self, features: Tensor, frames: int) -> Tensor:
        return completed(self.encode(features[:, :, : _PATCH * min(frames, self.positions)]), frames)

    def tokens(self, waveform: Tensor) -> Tensor:
        """The official sequence (batch, tokens, dim): a last token that is partly there is dropped.

        Raises
        ------
        ValueError    longer than the position table
        """
        return self.encode(self.features(self.spectrogram(waveform)))

    def features(self, power: Tensor) -> Tensor:
        """Mel power (batch, bands, time) → decibels within 80 dB of the loudest, -79.6…50.7 dB becoming -1…1."""
        with torch.autocast(power.device.type, enabled=False):
            decibels = 10.0 * power.clamp(min=1e-10).log10()
            loudest = decibels.amax(dim=(1, 2), keepdim=True) if self.top_db_over == "clip" else decibels.amax()
            decibels = torch.maximum(decibels, loudest - 80.0).clamp(-50.0, 80.0)
            return (decibels - _LOWEST_DB) / (_HIGHEST_DB - _LOWEST_DB) * 2.0 - 1.0

    def encode(self, features: Tensor) -> Tensor:
        """Features (batch, bands, time) → (batch, time // 4, dim)."""
        return in_parts(self._transformed, features, features.shape[2] // _PATCH)

    def _transformed(self, features: Tensor) -> Tensor:
        tokens = self.embedding(features)
        for block in self.blocks:
            tokens = block(tokens)
        return self.projection(self.norm_frame(tokens))

    def layers(self) -> list[nn.Module]:
        """Patches with positions, the blocks, the last norm."""
        return [self.embedding, *self.blocks, self.norm_frame]

    def load_official(self, path: str | Path, network: str = "teacher") -> list[str]:
        """Load ATST-Frame from a file of audiossl (self-supervised or fine-tuned), ATST-SED, PretrainedSED or CP-JKU.

        Parameters
        ----------
        network : str    "teacher" or "student", where the file holds both

        Returns
        -------
        list of str
            Names in the file that embeddings do not need: heads, the other network, a CRNN.

        Raises
        ------
        CheckpointError    unreadable, or not an ATST-Frame of this size
        """
        content = read_checkpoint(path)
        tensors, others = module_tensors(
            content,
            "patch_embed.patch_embed.weight",
            path,
            network=network,
            without=("encoder.encoder.teacher_module.",),
        )
        # self-supervised files: a class token that frames do not use, and another name of the norm
        others += [name for name in ("cls_token",) if tensors.pop(name, None) is not None]
        projection, taken = projection_tensors(self, content, path, network)
        load_strict(self, {_our_name(name): tensor for name, tensor in tensors.items()} | projection, path)
        return [name for name in others if name not in taken]


class _Embedding(nn.Module):
    """Patches of full height and four mel frames, projected, with learned positions."""

    def __init__(self, dim, positions):
        super().__init__()
        self.patch_embed = Linear(BANDS * _PATCH, dim)
        # row 0 is for a class token that frame-wise models do not have
        self.pos_embed = nn.Parameter(torch.zeros(1, positions + 1, dim))
        # stands in for masked patches in self-supervision only; without gradient, or DDP waits for it
        self.mask_embed = nn.Parameter(torch.zeros(1, 1, dim), requires_grad=False)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.patch_embed.weight, std=0.02)
        nn.init.zeros_(self.patch_embed.bias)

    def forward(self, features):
        count = features.shape[2] // _PATCH
        if count >= self.pos_embed.shape[1]:
            raise ValueError(f"{count} tokens in one piece, the position table has {self.pos_embed.shape[1] - 1}")
        patches = features[:, :, : count * _PATCH].unflatten(2, (count, _PATCH)).transpose(1, 2).flatten(2)
        return self.patch_embed(patches.to(self.pos_embed.dtype)) + self.pos_embed[:, 1 : count + 1]


def _our_name(name: str) -> str:
    if name.startswith("patch_embed."):
        return name.replace("patch_embed.", "embedding.", 1)
    if name in ("pos_embed", "mask_embed"):
        return f"embedding.{name}"
    return f"norm_frame.{name.removeprefix('norm.')}" if name.startswith("norm.") else name
