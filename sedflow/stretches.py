"""Stretches: every detection that any threshold gives, found without trying thresholds.

The frames of all clips are in sequence. At one threshold the frames at or above it form detections; as the
threshold falls a detection appears at the score of its lowest frame and vanishes when it grows into a longer one.
A signal of n frames has at most n such stretches, and they form a tree: each is within the one it grows into.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from sedflow.scores import ScoreColumns, Scores


@dataclasses.dataclass(frozen=True)
class Frames:
    """The frames of all clips, one clip after the other, and a way to get one class's scores for them.

    Parameters
    ----------
    clips : tuple of str
    classes : tuple of str
    clip : (frames,) int    index into ``clips``, rising
    onset, offset : (frames,) float    seconds; within a clip each frame begins where the one before it ends
    column : callable    label → (frames,) float
    """

    clips: tuple[str, ...]
    classes: tuple[str, ...]
    clip: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    column: Callable[[str], np.ndarray]

    @classmethod
    def of(cls, scores: Mapping[str, Scores]) -> Frames:
        """Frames of a set of scored clips."""
        members = list(scores.values())
        classes = members[0].classes
        return cls(
            clips=tuple(scores),
            classes=classes,
            clip=np.repeat(np.arange(len(members)), [len(s.values) for s in members]),
            onset=np.concatenate([s.edges[:-1] for s in members]),
            offset=np.concatenate([s.edges[1:] for s in members]),
            column=lambda label: np.concatenate([s.values[:, classes.index(label)] for s in members]).astype(float),
        )

    @classmethod
    def reading(cls, columns: ScoreColumns) -> Frames:
        """Frames of a score file whose classes are read when they are needed."""
        return cls(columns.clips, columns.classes, columns.clip, columns.onset, columns.offset, columns.column)

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """First frame of each clip that has frames."""
        return np.flatnonzero(np.diff(self.clip, prepend=-1))


@dataclasses.dataclass(frozen=True)
class Stretches:
    """Detections of one class over all thresholds; one exists for ``until`` < threshold ≤ ``level``."""

    level: np.ndarray
    until: np.ndarray
    clip: np.ndarray
    onset: np.ndarray
    offset: np.ndarray

    def where(self, chosen: np.ndarray) -> Stretches:
        """The chosen ones."""
        return Stretches(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))


def stretches(values: np.ndarray, frames: Frames, floor: float = -np.inf) -> Stretches:
    """Every detection that some threshold at or above ``floor`` gives, in order of time.

    Parameters
    ----------
    values : (frames,) float    scores of one class; −inf is never detected
    """
    line = _Line(values, frames, (values >= floor) & (values > -np.inf))
    left = line.nearest(-1, lambda there, here: there > here)
    first = line.padded[left] < line.padded  # equal frames of one stretch: the first one speaks for all
    left, right = left[first], line.nearest(1, lambda there, here: there >= here)[first]
    return Stretches(
        level=line.padded[first],
        until=np.maximum(line.padded[left], line.padded[right]),
        clip=frames.clip[line.frame[first]],
        onset=frames.onset[line.frame[left + 1]],
        offset=frames.offset[line.frame[right - 1]],
    )


class _Line:
    """One class's scores with a −inf sentinel before every run of kept frames and behind the last."""

    def __init__(self, values: np.ndarray, frames: Frames, kept: np.ndarray):
        kept = np.flatnonzero(kept)
        breaks = np.ones(len(kept), dtype=bool)
        breaks[1:] = (np.diff(kept) > 1) | (np.diff(frames.clip[kept]) > 0)
        self.place = np.arange(len(kept)) + np.cumsum(breaks)
        self.padded = np.full(len(kept) + breaks.sum() + 1, -np.inf)
        self.padded[self.place] = values[kept]
        self.frame = np.zeros(len(self.padded), dtype=int)
        self.frame[self.place] = kept

    def nearest(self, step: int, passes: Callable) -> np.ndarray:
        """Nearest place before (step −1) or behind (step 1) each one that stops the search; sentinels keep their own.

        ``passes(there, here)`` says whether the search goes on past a value.
        """
        nearest = np.arange(len(self.padded))
        nearest[self.place] += step
        active = self.place[passes(self.padded[nearest[self.place]], self.padded[self.place])]
        while active.size:
            # what a passed frame has jumped over is higher still, so its own jump can be taken over
            nearest[active] = nearest[nearest[active]]
            active = active[passes(self.padded[nearest[active]], self.padded[active])]
        return nearest


class Tree:
    """Each frame's stretch (the frames around it that are not lower) and the one it grows into.

    ``grow`` names, per place of the padded line, the place whose stretch contains this one; sentinels are roots.
    """

    def __init__(self, values: np.ndarray, frames: Frames):
        line = _Line(values, frames, np.ones(len(values), dtype=bool))
        self.place, self.level = line.place, line.padded
        self.left = line.nearest(-1, lambda there, here: (there >= here) & (there > -np.inf))
        self.right = line.nearest(1, lambda there, here: (there >= here) & (there > -np.inf))
        self.grow = np.where(self.level[self.left] >= self.level[self.right], self.left, self.right)
        self.seconds = np.zeros(len(self.level))
        begin, end = line.frame[self.left[self.place] + 1], line.frame[self.right[self.place] - 1]
        self.seconds[self.place] = frames.offset[end] - frames.onset[begin]

    def at_clip_edge(self) -> np.ndarray:
        """Whether a place's stretch reaches the beginning or the end of its clip."""
        inner = np.zeros(len(self.level), dtype=bool)
        inner[self.place] = True
        return ~(inner[self.left] & inner[self.right])

    def climb(self, unfit: np.ndarray) -> np.ndarray:
        """Level of the first fit stretch around each frame; −inf where none is fit.

        Parameters
        ----------
        unfit : (places,) bool    for every place of the padded line
        """
        unfit = unfit.copy()
        roots = np.ones(len(unfit), dtype=bool)
        roots[self.place] = False
        unfit[roots] = False
        target = np.where(unfit, self.grow, np.arange(len(unfit)))
        while unfit[target].any():
            target = target[target]
        return self.level[target[self.place]]

    @property
    def peak(self) -> np.ndarray:
        """Highest score within each place's stretch."""
        peak = self.level.copy()
        bounds = np.stack([self.left[self.place] + 1, self.right[self.place]], axis=1).ravel()
        if len(bounds):
            peak[self.place] = np.maximum.reduceat(self.level, bounds)[::2]
        return peak

    def highest(self, worth: np.ndarray) -> np.ndarray:
        """Greatest ``worth`` (one per place) of all stretches around each frame."""
        best, ancestor = worth.copy(), self.grow
        while (ancestor[self.place] != ancestor[ancestor[self.place]]).any():
            best, ancestor = np.maximum(best, best[ancestor]), ancestor[ancestor]
        return np.maximum(best, best[ancestor])[self.place]
