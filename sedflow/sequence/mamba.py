"""MAMBA: causal state-space layers (Mamba-2) in plain PyTorch; fused kernels are used where they are installed."""

from __future__ import annotations

import functools
import math
import warnings

import torch
from torch import nn

from sedflow.layers import at_least_float32, from_sequential, projection
from sedflow.products import Linear
from sedflow.weights import load_strict


class Mamba(nn.Module):
    """A linear projection, LayerNorm, and residual Mamba-2 layers whose outputs are normalised.

    Parameters
    ----------
    dim : int    width of the embeddings
    width : int    width of the head
    layers : int
    state : int    numbers remembered per channel
    kernel : int    frames of the convolution before the scan
    expand : int    channels inside, as a multiple of the width
    head_dim : int or None    channels that share one decay; None: 32 up to a width of 128, else 64, as published
    chunk : int    frames computed at once; a matter of speed, not of the result

    The kernels of ``mamba_ssm`` run where they are installed, on a GPU, for chunks of 16, 32, 64, 128 or 256 frames.
    They multiply float32 in TF32, with ten bits behind the point: expect results within about 1e-3 of the largest here.

    Source
    ------
    theMoro/EfficientSED 7bef42e models/sequence_models/multi_layer_model.py; Dao & Gu, arXiv:2405.21060.
    """

    def __init__(
        self,
        dim,
        *,
        width: int = 256,
        layers: int = 2,
        state: int = 64,
        kernel: int = 3,
        expand: int = 2,
        head_dim: int | None = None,
        chunk: int = 64,
    ):
        super().__init__()
        self.dim = width
        head_dim = head_dim or (32 if width <= 128 else 64)
        self.project = projection(dim, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.ModuleList([_Mamba2(width, expand * width, state, kernel, head_dim, chunk), nn.LayerNorm(width)])
            for _ in range(layers)
        )

    def forward(self, embeddings, padding_mask=None):
        """(batch, frames, dim) → (batch, frames, width); what lies behind a clip's end cannot reach it."""
        hidden = self.norm(self.project(embeddings))
        for mixer, norm in self.layers:
            hidden = hidden + norm(mixer(hidden))
        return hidden

    def load_official(self, tensors):
        """Take the ``seq_model.*`` tensors of an official file, prefix stripped."""
        projected = isinstance(self.project, nn.Linear)
        load_strict(self, from_sequential(tensors, *["project."] * projected, "norm.", ""), "mamba")


class _Mamba2(nn.Module):
    """One Mamba-2 mixer with a single group and no inner norm; parameters carry the official names."""

    def __init__(self, width, inner, state, kernel, head_dim, chunk):
        super().__init__()
        if inner % head_dim:
            raise ValueError(
                f"mamba: {inner} inner channels (expand · width) cannot be divided into heads of {head_dim}"
            )
        heads = inner // head_dim
        self.sizes = [inner, inner + 2 * state, heads]  # gate; signal, write and read vectors; step
        self.state, self.kernel, self.head_dim, self.chunk = state, kernel, head_dim, chunk
        self.in_proj = Linear(width, sum(self.sizes), bias=False)
        self.conv1d = nn.Conv1d(self.sizes[1], self.sizes[1], kernel, groups=self.sizes[1])
        self.out_proj = Linear(inner, width, bias=False)
        # steps spread log-uniformly over 1 ms … 100 ms, decays uniformly over 1 … 16, as in the paper's code
        step = torch.exp(torch.empty(heads).uniform_(math.log(1e-3), math.log(1e-1))).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))

    def forward(self, x):
        gate, mixed, step = self.in_proj(x).split(self.sizes, dim=-1)
        past = nn.functional.pad(mixed.transpose(1, 2), (self.kernel - 1, 0))
        mixed = nn.functional.silu(self.conv1d(past)).transpose(1, 2)
        signal, write, read = mixed.split([self.sizes[0], self.state, self.state], dim=-1)
        scanned = self._scan(signal.unflatten(-1, (-1, self.head_dim)), step, write, read)
        return self.out_proj(scanned.flatten(2).to(gate.dtype) * nn.functional.silu(gate))

    def _scan(self, signal, step, write, read):
        # decays multiply up over hundreds of frames: float32, whatever the precision around
        with torch.autocast(signal.device.type, enabled=False):
            signal, write, read = (at_least_float32(x) for x in (signal, write, read))
            step = nn.functional.softplus(at_least_float32(step) + at_least_float32(self.dt_bias))
            decay = -at_least_float32(self.A_log).exp()
            fused = _fused_scan() if _suits_kernels(signal, self.chunk) else None
            if fused is not None:
                scanned = fused(signal, step, decay, write.unsqueeze(2), read.unsqueeze(2), chunk_size=self.chunk)
            else:
                scanned = _chunked_scan(signal * step.unsqueeze(-1), step * decay, write, read, self.chunk)
            return scanned + signal * at_least_float32(self.D).unsqueeze(-1)


def _chunked_scan(signal, log_decay, write, read, chunk):
    """Run S_t = exp(log_decay_t) S_{t-1} + signal_t write_tᵀ and read y_t = S_t read_t off it, a chunk at a time.

    Inside a chunk y is a product with a triangular matrix of decays; from chunk to chunk only S is handed on. No
    exponent is ever positive.

    Parameters
    ----------
    signal : (batch, frames, heads, head_dim)
    log_decay : (batch, frames, heads)    not positive
    write, read : (batch, frames, state)
    chunk : int    frames

    Returns
    -------
    (batch, frames, heads, head_dim)
    """
    frames = signal.shape[1]
    chunk = min(chunk, frames)
    signal, log_decay, write, read = (
        nn.functional.pad(x, [0, 0] * (x.ndim - 2) + [0, -frames % chunk]).unflatten(1, (-1, chunk))
        for x in (signal, log_decay, write, read)
    )
    signal = signal.transpose(2, 3)  # (batch, chunks, heads, chunk, head_dim)
    total = log_decay.transpose(2, 3).cumsum(-1)  # (batch, chunks, heads, chunk): decay since the chunk began
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=total.device).triu(1)
    decays = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later, -math.inf).exp()
    within = (read @ write.transpose(2, 3)).unsqueeze(2) * decays @ signal

    to_end = (total[..., -1:] - total).exp().unsqueeze(-1)
    gained = (signal * to_end).transpose(3, 4) @ write.unsqueeze(2)  # (batch, chunks, heads, head_dim, state)
    kept = total[..., -1].exp()[..., None, None]
    state, states = torch.zeros_like(gained[:, 0]), []
    for keep, gain in zip(kept.unbind(1), gained.unbind(1), strict=True):
        states.append(state)
        state = keep * state + gain
    carried = read.unsqueeze(2) @ torch.stack(states, dim=1).transpose(3, 4) * total.exp().unsqueeze(-1)
    return (within + carried).transpose(2, 3).flatten(1, 2)[:, :frames]


def _suits_kernels(signal, chunk):
    """Whether the fused kernels take such input: blocks of theirs are powers of two, and not of few frames."""
    return signal.is_cuda and signal.dtype == torch.float32 and chunk in (16, 32, 64, 128, 256)


@functools.cache
def _fused_scan():
    """The Triton kernel of ``mamba_ssm``, or None where it is not installed; one that is and cannot be used is told."""
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError) or error.name != "mamba_ssm":
            warnings.warn(f"mamba_ssm is installed but not usable ({error}); Mamba runs in plain PyTorch", stacklevel=2)
        return None
    return mamba_chunk_scan_combined
