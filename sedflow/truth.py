"""True events of all clips in one place, to look up how much of a stretch of time they cover."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sedflow.events import Event

DECIMALS = 6  # times are compared in microseconds, so that 0.7 of a length is met exactly


class Truth:
    """True events of all clips, to look up how much of a stretch of time they cover.

    Every (clip, class) pair with events is a segment of one long time axis, so that a single interpolation answers
    for all clips.
    """

    def __init__(self, truth: Mapping[str, Iterable[Event]], clips: Sequence[str], classes: Sequence[str]):
        column = {label: k for k, label in enumerate(classes)}
        rows = [(i, column[e.label], e.onset, e.offset) for i, clip in enumerate(clips) for e in truth.get(clip, ())]
        table = np.array(sorted(rows), dtype=float).reshape(-1, 4)
        self.classes = tuple(classes)
        self.clip, self.label = table[:, 0].astype(int), table[:, 1].astype(int)
        self.onset, self.offset = table[:, 2], table[:, 3]
        pairs, self.segment = np.unique(self.clip * len(classes) + self.label, return_inverse=True)
        self.segment_clip, self.segment_label = np.divmod(pairs, len(classes))
        self._segment_of = np.full(len(clips) * len(classes), -1)
        self._segment_of[pairs] = np.arange(len(pairs))
        self.span = 1.0 + self.offset.max(initial=0.0)
        covered = np.cumsum(self.offset - self.onset)
        shift = self.segment * self.span
        self._knots = np.stack([self.onset + shift, self.offset + shift], axis=1).ravel()
        self._covered = np.stack([covered - (self.offset - self.onset), covered], axis=1).ravel()

    @property
    def present(self) -> list[str]:
        """Classes with at least one event."""
        return [self.classes[column] for column in np.unique(self.label)]

    def events(self, column: int, weights: np.ndarray) -> float:
        """Number of events of a class; clips count ``weights`` times."""
        return float(weights[self.clip[self.label == column]].sum())

    def number(self, column: int, clips: int) -> np.ndarray:
        """Events of a class in each clip, shape (clips,)."""
        return np.bincount(self.clip[self.label == column], minlength=clips)

    def pairs(self, clip: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Every event of a class with every detection in its clip: (event, detection).

        Parameters
        ----------
        clip : (detections,) int    rising
        """
        own = np.flatnonzero(self.label == column)
        row, detection = join_ranges(*(np.searchsorted(clip, self.clip[own], side=side) for side in ("left", "right")))
        return own[row], detection

    def segments(self, clip: np.ndarray, label: int) -> np.ndarray:
        """Segment of each clip for one class, −1 where the class is silent."""
        return self._segment_of[clip * len(self.classes) + label]

    def coverage(self, segment: np.ndarray, onset: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Seconds of [onset, offset] on the events of a segment; 0 where the segment is −1."""
        edge = self.span - 0.5  # times behind the last event count up to the segment's end
        shift = segment * self.span
        ends = [np.interp(np.minimum(t, edge) + shift, self._knots, self._covered) for t in (onset, offset)]
        return np.round(np.where(segment >= 0, ends[1] - ends[0], 0.0), DECIMALS)

    def seconds(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Total length of each class's events, shape (classes,); clips count ``weights`` times."""
        lengths = self.offset - self.onset
        lengths = lengths if weights is None else lengths * weights[self.clip]
        return np.bincount(self.label, lengths, minlength=len(self.classes))


def join_ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join the ranges [start, end): (index of the range, member)."""
    lengths = ends - starts
    row = np.repeat(np.arange(len(starts)), lengths)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + starts[row]
