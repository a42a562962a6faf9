"""What encoders do with a waveform before and around their network: refuse it, pad it, cut it into windows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sedflow.frames import FrameGrid

_LONGEST_SECONDS = 3600
_TOKENS = 500  # enough to keep a processor's matrix products busy
_OVERLAP = 0.25  # share of a window that its neighbour sees too, at least


def checked(waveform: Tensor, sample_rate: int) -> Tensor:
    """The waveform in float32.

    Parameters
    ----------
    waveform : (batch, samples) floating point, nominally in [-1, 1]
    sample_rate : int    Hz

    Raises
    ------
    ValueError    no samples, another shape or type, longer than an hour, or not finite
    """
    if waveform.ndim != 2 or 0 in waveform.shape:
        raise ValueError(f"expected a waveform (batch, samples) with samples in it, got {tuple(waveform.shape)}")
    if not waveform.is_floating_point():
        raise ValueError(
            f"expected a waveform in [-1, 1], got {waveform.dtype}; divide PCM samples by their full scale"
        )
    if waveform.shape[1] > _LONGEST_SECONDS * sample_rate:
        raise ValueError(
            f"{waveform.shape[1] / sample_rate:.0f} s of audio in one piece, more than {_LONGEST_SECONDS} s; "
            "cut it into clips (`sedflow detect` reads recordings of any length window by window)"
        )
    finite = waveform.isfinite()
    if not finite.all():
        row, sample = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"clip {row} of the batch is {waveform[row, sample].item()} at sample {sample} "
            f"({sample / sample_rate:.3f} s); repair the recording or leave it out"
        )
    return waveform.float()


def padded(waveform: Tensor, samples: int) -> Tensor:
    """The waveform followed by zeros, at least ``samples`` long."""
    return F.pad(waveform, (0, max(0, samples - waveform.shape[1])))


def completed(embeddings: Tensor, frames: int) -> Tensor:
    """(batch, n, dim) → (batch, frames, dim): a last frame that the clip only partly fills repeats the one before.

    Encoders round down where the grid rounds up; this way their own numbers stay what they are.

    Raises
    ------
    ValueError    more than one frame is missing: an encoder left out part of the clip
    """
    missing = frames - embeddings.shape[1]
    if missing > 1:
        raise ValueError(
            f"{embeddings.shape[1]} embeddings for a clip of {frames} frames: it is longer than the encoder reads in "
            "one piece; train on shorter clips, or augment the waveform, which is read in windows"
        )
    return embeddings if missing <= 0 else torch.cat([embeddings, embeddings[:, -1:].expand(-1, missing, -1)], dim=1)


def in_parts(encode: Callable[[Tensor], Tensor], features: Tensor, tokens: int) -> Tensor:
    """Encode a batch a few clips at a time where that is faster and needs less memory: inference on a processor.

    What a clip needs stays in the cache and in memory that the process has; a batch's needs are fetched anew each time.

    Parameters
    ----------
    encode : callable    features of clips → (clips, …)
    features : (batch, …)
    tokens : int    that a clip becomes

    Raises
    ------
    ValueError    a clip too short for one token
    """
    if tokens < 1:
        raise ValueError(f"features {tuple(features.shape)} are too short for one token; pad the clip with silence")
    if features.device.type != "cpu" or torch.is_grad_enabled():
        return encode(features)
    return torch.cat([encode(part) for part in features.split(max(1, _TOKENS // tokens))])


def in_windows(
    encode: Callable[[Tensor, int], Tensor],
    signal: Tensor,
    rate: float,
    grid: FrameGrid,
    reach: int,
    frames: int | None = None,
) -> Tensor:
    """Encode clips that are longer than an encoder's reach.

    Windows of ``reach`` frames start on the grid, evenly spread from the clip's start to its end; where they overlap,
    their embeddings are averaged, those near a window's edge counting less.

    Parameters
    ----------
    encode : callable    (part of the signal, frames) → (batch, frames, dim), up to ``reach`` frames
    signal : (batch, …, time)    waveforms, or what an encoder's network reads of them
    rate : float    steps of time per second
    grid : FrameGrid    of the embeddings
    reach : int    frames
    frames : int, optional    of the clip; as many as the signal lasts if unset

    Returns
    -------
    (batch, frames, dim)
    """
    frames = frames or grid.frames(signal.shape[-1] / rate)
    steps = math.ceil(round(reach * rate * grid.hop_seconds, 6))  # 156 frames of 1/15.6 s are not a sample over 10 s
    windows = 1 + math.ceil((frames - reach) / (reach * (1 - _OVERLAP)))
    total, weights = None, signal.new_zeros(frames, 1)
    # an edge that is the clip's own has no other window to hand over to; the division below makes it count fully
    fade = torch.minimum(torch.arange(1, reach + 1), torch.arange(reach, 0, -1)).to(signal).unsqueeze(1)
    for number in range(windows):
        first = round(number * (frames - reach) / (windows - 1))
        start = round(first * rate * grid.hop_seconds)
        embeddings = encode(signal[..., start : start + steps], reach)
        if total is None:
            total = embeddings.new_zeros(len(signal), frames, embeddings.shape[2], dtype=torch.float32)
        total[:, first : first + reach] += fade * embeddings
        weights[first : first + reach] += fade
    return (total / weights).to(embeddings.dtype)
