"""Which clips make up batch number k: a pure function of (seed, source, k), whatever happened before.

A source's clips come in rounds, and within a round no clip comes twice. A uniform round is a shuffle of all clips, or
of as many as the page says. A balanced round is a weighted draw without replacement of as many clips as the page says,
or as the stage reads between two validations.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sedflow.events import Event
from sedflow.frames import FrameGrid
from sedflow.recordings import SOUNDS

# see `balanced_weights`: offsets in frames and in clips
FRAMES_OFFSET, CLIPS_OFFSET, BALANCE_SCALE = 30.0, 100.0, 1000.0

log = logging.getLogger(__name__)


class Draws:
    """The endless sequence of a source's clips.

    Parameters
    ----------
    pool : sequence of str    clip ids
    seed : int
    source : str    sources draw independently
    weights : (clips,), optional    chances of a balanced draw; clips of weight 0 come last, each as likely
    round_clips : int, optional    length of a round; at most, and by default, all clips
    """

    def __init__(
        self,
        pool: Sequence[str],
        seed: int,
        source: str,
        weights: np.ndarray | None = None,
        round_clips: int | None = None,
    ):
        self.pool, self.weights = pool, weights
        self._entropy = [seed, stable_number(source)]
        self.round_clips = min(len(pool), round_clips or len(pool))
        if weights is not None and self.round_clips > 0.5 * len(pool):
            log.warning(
                "%s: a round draws %d of %d clips, so balancing hardly changes which ones; lower `epoch_clips`",
                source, self.round_clips, len(pool),
            )  # fmt: skip
        self._round: tuple[int, np.ndarray] | None = None  # the last one, so that it is not drawn for every clip

    def __getitem__(self, position: int) -> str:
        number, place = divmod(position, self.round_clips)
        if self._round is None or self._round[0] != number:
            self._round = (number, self._order(number))
        return self.pool[self._round[1][place]]

    def _order(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([*self._entropy, number])
        if self.weights is None:
            return rng.permutation(len(self.pool))[: self.round_clips]
        # the order of Gumbel keys is that of draws without replacement, one after the other (Efraimidis & Spirakis)
        chance = rng.gumbel(size=len(self.pool))
        with np.errstate(divide="ignore"):
            keys = np.log(self.weights) + chance
        return np.lexsort((-chance, -keys))[: self.round_clips]


def balanced_weights(amounts: Sequence[Mapping[str, float]], offset: float) -> np.ndarray:
    """Chances of clips: Σ over their classes of amount · 1000 / (offset + the class's amount in all clips).

    Parameters
    ----------
    amounts : per clip, label → active frames, or 1 for a label of the whole clip

    Source
    ------
    PretrainedSED, data_util/audioset_strong.py:194-222 (frames, offset 30); EfficientSED's weak loader (clips, 100).
    """
    totals: Counter[str] = Counter()
    for of_clip in amounts:
        totals.update(of_clip)
    return np.array(
        [sum(n * BALANCE_SCALE / (offset + totals[label]) for label, n in of_clip.items()) for of_clip in amounts]
    )


def active_frames(events: Iterable[Event], grid: FrameGrid) -> dict[str, int]:
    """Label → frames in which it sounds, each counted once; of soft labels those that are more likely than not."""
    frames: dict[str, set[int]] = {}
    for event in events:
        if event.confidence > SOUNDS:
            touched = range(grid.first_frame(event.onset), grid.end_frame(event.offset))
            frames.setdefault(event.label, set()).update(touched)
    return {label: len(touched) for label, touched in frames.items()}


def stable_number(text: str) -> int:
    """A 32-bit number from a text, the same in every process (Python's hash is not)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
