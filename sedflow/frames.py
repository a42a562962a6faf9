"""Seconds and frames: one rule for the whole project.

Frame k of a grid covers the half-open interval [k, k+1) / frame_rate seconds. A partial last frame counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from sedflow.events import ClassSet, Event

# times are decimals, frames are binary: 0.3 s * 10 Hz must be frame 3 and not 2
_SLACK = 1e-6


@dataclasses.dataclass(frozen=True)
class FrameGrid:
    """A regular grid of frames.

    Parameters
    ----------
    frame_rate : float    frames per second
    """

    frame_rate: float

    def __post_init__(self):
        if not (math.isfinite(self.frame_rate) and self.frame_rate > 0):
            raise ValueError(f"frame_rate must be positive, got {self.frame_rate}")

    @property
    def hop_seconds(self) -> float:
        """Length of a frame."""
        return 1.0 / self.frame_rate

    def frames(self, seconds: float) -> int:
        """Frames needed to cover ``seconds``: at least one, a partial last one counts."""
        return max(1, math.ceil(seconds * self.frame_rate - _SLACK))

    def whole_frames(self, seconds: float) -> int:
        """Frames that ``seconds`` fill: at least one, a partial last one does not count."""
        return max(1, math.floor(seconds * self.frame_rate + _SLACK))

    def first_frame(self, onset: float) -> int:
        """Frame in which ``onset`` (seconds) falls."""
        return max(0, math.floor(onset * self.frame_rate + _SLACK))

    def end_frame(self, offset: float) -> int:
        """First frame that begins at or after ``offset`` (seconds)."""
        return max(0, math.ceil(offset * self.frame_rate - _SLACK))

    def first_centre(self, onset: float) -> int:
        """First frame whose middle lies at or after ``onset`` (seconds)."""
        return max(0, math.ceil(onset * self.frame_rate - 0.5 - _SLACK))

    def end_centre(self, offset: float) -> int:
        """First frame whose middle lies behind ``offset`` (seconds)."""
        return max(0, math.floor(offset * self.frame_rate - 0.5 + _SLACK) + 1)

    def edges(self, frames: int, seconds: float | None = None) -> np.ndarray:
        """Frame boundaries in seconds, shape (frames + 1,); the last one cut to ``seconds`` if given."""
        edges = np.arange(frames + 1) / self.frame_rate
        return edges if seconds is None else np.minimum(edges, seconds)


def frame_targets(
    events: Iterable[Event], classes: ClassSet, grid: FrameGrid, frames: int, rule: str = "touched"
) -> np.ndarray:
    """Mark the frames of each event.

    Parameters
    ----------
    events : iterable of Event    onset and offset in seconds
    classes : ClassSet    column order
    grid : FrameGrid
    frames : int    length of the result
    rule : str
        "touched": onsets round down, offsets up, a frame touched at all counts. "centre": frames whose middle lies in
        the event, so that an event shorter than a frame may have none (HEAR, PretrainedSED).

    Returns
    -------
    (frames, classes) float32 in [0, 1]
        The confidence of the event, 1 by default. Where events of one class overlap, the highest confidence counts,
        so that their order does not matter.

    Raises
    ------
    ValueError    label outside ``classes``, or offset not after onset
    """
    targets = np.zeros((frames, len(classes)), dtype=np.float32)
    for event in events:
        if not event.offset > event.onset:
            raise ValueError(f"offset {event.offset} s of {event.label!r} is not after its onset {event.onset} s")
        if rule == "touched":
            first, end = grid.first_frame(event.onset), grid.end_frame(event.offset)
        else:
            first, end = grid.first_centre(event.onset), grid.end_centre(event.offset)
        own = targets[first:end, classes.index(event.label)]
        np.maximum(own, event.confidence, out=own)
    return targets
