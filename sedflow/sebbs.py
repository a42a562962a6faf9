"""cSEBBs: sound event bounding boxes by change detection.

Each event becomes one box (onset, offset, confidence) whatever the threshold, so that its boundaries do not move with
the operating point. A step filter of length T compares the mean score of the T/2 seconds ahead with that of the T/2
before. Where the difference peaks an event begins, where it bottoms out the event ends. Two neighbouring events are
joined when the gap between them is not much quieter than both: less than ``merge_absolute`` below their maxima and
less than ``merge_relative`` times quieter. A box's confidence is its mean score.

Source: Ebbers, Germain, Wichern, Le Roux, Interspeech 2024, arXiv:2406.04212.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sedflow.stretches import Frames

_TICK = 1e-7  # breakpoints closer than this are one
_DECIMALS = 8
_FLAT = 1e-12  # smaller steps of the change signal are rounding


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Boxes of one class in all clips, in order of clip and time: seconds and mean score."""

    clip: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    confidence: np.ndarray


def boxes(
    values: np.ndarray, frames: Frames, step_seconds: float, merge_absolute: float, merge_relative: float
) -> Boxes:
    """Find the boxes of one class.

    Parameters
    ----------
    values : (frames,) float    finite scores
    frames : Frames
    step_seconds : float    length T of the step filter
    merge_absolute, merge_relative : float    infinity switches a merge criterion off
    """
    if not np.isfinite(values).all():
        raise ValueError("cSEBBs need finite scores; apply them to the detector's own scores, before other steps")
    found = []
    for clips, signals, edges in _same_edges(values, frames):
        row, *spread = _Candidates(signals, edges, step_seconds).merged(merge_absolute, merge_relative)
        found.append((clips[row], *spread))
    clip, onset, offset, confidence = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((onset, clip))
    return Boxes(clip[order], onset[order], offset[order], confidence[order])


def _same_edges(values, frames):
    """Clips with the same frame edges, to be worked on together: (clip indices, (clips, frames) scores, edges)."""
    groups: dict[bytes, list[tuple[int, int]]] = {}
    starts = frames.starts
    for begin, end in zip(starts, np.append(starts[1:], len(frames.clip)), strict=True):
        groups.setdefault(frames.offset[begin:end].tobytes(), []).append((begin, end))
    for spans in groups.values():
        begins, (begin, end) = np.array([span[0] for span in spans]), spans[0]
        edges = np.append(frames.onset[begin], frames.offset[begin:end])
        yield frames.clip[begins], values[begins[:, None] + np.arange(end - begin)], edges


class _Candidates:
    """Events between the extrema of the change signal, before merging; ``row`` is the signal each belongs to."""

    def __init__(self, signals, edges, step_seconds):
        times, reported = _breakpoints(edges, step_seconds)
        integral = np.pad(np.cumsum(signals * np.diff(edges), axis=1), ((0, 0), (1, 0)))

        def until(t):
            t = np.clip(t, 0.0, edges[-1])
            frame = _frame_at(t, edges)
            return integral[:, frame] + signals[:, frame] * (t - edges[frame])

        here = until(times)
        ahead, behind = until(times + step_seconds / 2) - here, here - until(times - step_seconds / 2)
        change = (2 / step_seconds) * (ahead - behind)
        rises = np.ones((len(signals), len(times) + 1), dtype=bool)  # it rises before the clip, and again behind it
        rises[:, 1:-1] = np.diff(change, axis=1) > _FLAT
        row, turn = np.nonzero(rises[:, 1:] != rises[:, :-1])
        self.row, begin, end = row[::2], turn[::2], turn[1::2]  # peaks and valleys take turns, a peak first
        self.onset, self.offset = reported[begin], reported[end]
        self._area_before = here[self.row, begin], here[self.row, end]

        inside = signals[:, _frame_at((times[:-1] + times[1:]) / 2, edges)]  # breakpoints cut time into pieces
        pieces = np.append(inside.ravel(), 0.0)
        bounds = np.stack([begin, end], axis=1) + self.row[:, None] * inside.shape[1]
        self._loudest = np.maximum.reduceat(pieces, bounds.ravel())[::2] if len(row) else np.zeros(0)
        self._quietest_after = np.minimum.reduceat(pieces, bounds.ravel())[1::2] if len(row) else np.zeros(0)

    def merged(self, merge_absolute, merge_relative):
        """Boxes after merging: row, onset, offset, confidence."""
        loud, quiet = self._loudest + 1e-3, self._quietest_after[:-1] + 1e-3
        closes = self.row[:-1] == self.row[1:]  # gap i lies between candidates i and i + 1 of one signal
        for side in (loud[:-1], loud[1:]):
            closes &= (side - quiet < merge_absolute) & (side / quiet < merge_relative)
        heads = np.append(True, ~closes)[: len(self.row)]
        tails = np.append(~closes, True)[: len(self.row)]
        row, onset, offset = self.row[heads], self.onset[heads], self.offset[tails]
        area = self._area_before[1][tails] - self._area_before[0][heads]
        lonely = np.bincount(self.row)[row] == 1
        seconds = np.where(lonely, np.maximum(offset - onset, _TICK), offset - onset + 1e-6)
        return row, onset, offset, area / seconds


def _frame_at(times, edges):
    return np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(edges) - 2)


def _breakpoints(edges, step_seconds):
    """Times at which the change signal can turn; the time told for a turn is the entry before the next one."""
    half = step_seconds / 2
    listed = np.sort(np.round(np.concatenate([edges, edges + half, edges - half]), _DECIMALS))
    within = (listed >= _TICK) & (listed <= np.round(edges[-1], _DECIMALS))
    used = np.flatnonzero(within & (np.diff(listed, prepend=-np.inf) >= _TICK))
    return np.append(0.0, listed[used]), np.append(listed[used - 1], edges[-1])
