"""Events with a collar, intersections, seconds and whole clips → tallies per class (see ``sedflow.tallies``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sedflow.compat import prepare_sed_scores_eval
from sedflow.events import Event
from sedflow.psds import Criteria, appear_and_vanish, count
from sedflow.scores import Scores
from sedflow.stretches import Frames, stretches
from sedflow.tallies import Tally
from sedflow.truth import Truth


@dataclasses.dataclass(frozen=True)
class Judged:
    """What is judged, as sed_scores_eval wants it: tables and event tuples by clip; only classes that sound."""

    clips: tuple[str, ...]
    classes: tuple[str, ...]
    tables: dict
    events: dict[str, list[tuple[float, float, str]]]
    durations: dict[str, float]

    @classmethod
    def of(
        cls,
        scores: Mapping[str, Scores],
        truth: Mapping[str, Iterable[Event]],
        durations: Mapping[str, float],
        classes: Sequence[str],
    ) -> Judged:
        """Tables reach to the end of their clips; what no box covers is never detected."""
        clips = tuple(scores)
        tables = {clip: _until(scores[clip], durations[clip]).table()[["onset", "offset", *classes]] for clip in clips}
        events = {clip: [(e.onset, e.offset, e.label) for e in truth.get(clip, ())] for clip in clips}
        return cls(clips, tuple(classes), tables, events, {clip: durations[clip] for clip in clips})


def _until(scores: Scores, seconds: float) -> Scores:
    if scores.seconds >= seconds or not np.isneginf(scores.values).any():
        return scores
    silence = np.full((1, len(scores.classes)), -np.inf)
    return Scores(np.concatenate([scores.values, silence]), np.append(scores.edges, seconds), scores.classes)


@dataclasses.dataclass(frozen=True)
class Collar:
    """How many seconds a detection's onset and offset may be off; for the offset also a share of the event's length."""

    onset: float
    offset: float = np.inf
    rate: float = 0.0


def collar_tallies(frames: Frames, truth: Truth, collar: Collar) -> dict[str, Tally]:
    """Events matched when onset and offset lie within their collars; each event and detection at most once."""
    return {label: collar_tally(frames.column(label), frames, truth, label, collar) for label in truth.present}


def collar_tally(values: np.ndarray, frames: Frames, truth: Truth, label: str, collar: Collar) -> Tally:
    """One class, from its scores on ``frames``."""
    column, clips = truth.classes.index(label), len(frames.clips)
    detected = stretches(values, frames)
    event, member = truth.pairs(detected.clip, column)
    slack = np.maximum(collar.offset, collar.rate * (truth.offset - truth.onset)[event])
    hits = np.round(np.abs(detected.onset[member] - truth.onset[event]) - collar.onset, 6) <= 0
    hits &= np.round(np.abs(detected.offset[member] - truth.offset[event]) - slack, 6) <= 0
    event, hit = event[hits], detected.where(member[hits])
    doubtful = _ambiguous(event, member[hits], hit, truth, clips)
    level, clip, shown = appear_and_vanish(detected.where(~doubtful[detected.clip]))
    hit_level, hit_clip, found = appear_and_vanish(hit.where(~doubtful[hit.clip]))
    rows = [(level, clip, np.zeros_like(shown), shown), (hit_level, hit_clip, found, -found)]
    if doubtful.any():
        rows.append(_matched(values, frames, truth, column, np.flatnonzero(doubtful), collar))
    return Tally.of(*(np.concatenate(parts) for parts in zip(*rows, strict=True)), truth.number(column, clips))


def _ambiguous(event, member, hit, truth, clips) -> np.ndarray:
    """Clips where a detection fits two events, or two detections that may stand side by side fit one event."""
    doubtful = np.zeros(clips, dtype=bool)
    doubtful[hit.clip[np.bincount(member, minlength=1)[member] > 1]] = True
    last_onset, first_offset = np.full(len(truth.clip), -np.inf), np.full(len(truth.clip), np.inf)
    np.maximum.at(last_onset, event, hit.onset)
    np.minimum.at(first_offset, event, hit.offset)
    doubtful[truth.clip[last_onset >= first_offset]] = True
    return doubtful


def _matched(values, frames, truth, column, numbers, collar):
    """Changes of some clips by sed_scores_eval, which finds the best assignment at each threshold."""
    prepare_sed_scores_eval()
    from sed_scores_eval.collar_based import intermediate_statistics

    tables, events = {}, {}
    for number in numbers:
        of_clip = slice(*np.searchsorted(frames.clip, [number, number + 1]))
        edges = np.append(frames.onset[of_clip], frames.offset[of_clip][-1:])
        tables[number] = Scores(values[of_clip, None], edges, ("event",)).table()
        own = (truth.clip == number) & (truth.label == column)
        events[number] = [(on, off, "event") for on, off in zip(truth.onset[own], truth.offset[own], strict=True)]
    deltas = intermediate_statistics.intermediate_statistics_deltas(
        tables, events, onset_collar=collar.onset, offset_collar=collar.offset, offset_collar_rate=collar.rate
    )
    level, position, found, false = _rows(deltas, numbers, "event")
    return level, numbers[position], found, false


@dataclasses.dataclass(frozen=True)
class Segments:
    """Pieces of equal length of all clips: highest score and whether the class sounds, (segments, classes) each."""

    clip: np.ndarray
    score: np.ndarray
    active: np.ndarray

    def tally(self, column: int, clips: int) -> Tally:
        """Right and wrong segments of one class."""
        active = self.active[:, column].astype(int)
        positives = np.bincount(self.clip, active, minlength=clips)
        negatives = np.bincount(self.clip, 1 - active, minlength=clips)
        return Tally.of(self.score[:, column], self.clip, active, 1 - active, positives, negatives)

    def errors(self, threshold: float, clips: int) -> np.ndarray:
        """Substitutions, deletions, insertions and events per clip, (4, clips), all classes together.

        Source: sed_eval 0.2.1, ``SegmentBasedMetrics``: in each segment a missed and a false class make a substitution.
        """
        detected = self.score > threshold
        missed = (self.active & ~detected).sum(axis=1)
        false = (~self.active & detected).sum(axis=1)
        both = np.minimum(missed, false)
        return np.stack([
            np.bincount(self.clip, values, minlength=clips)
            for values in (both, missed - both, false - both, self.active.sum(axis=1))
        ])  # fmt: skip


def segments_of(judged: Judged, seconds: float) -> Segments:
    """Cut clips into segments."""
    prepare_sed_scores_eval()
    from sed_scores_eval.segment_based import intermediate_statistics

    deltas = intermediate_statistics.intermediate_statistics_deltas(
        judged.tables, judged.events, judged.durations, segment_length=seconds
    )
    columns = [_rows(deltas, judged.clips, label) for label in judged.classes]
    score, clip, found, _ = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    return Segments(clip[:, 0], score, found.astype(bool))


def _rows(deltas, clips, label):
    """The library's changes of one class as level, clip, found, false."""
    parts = [deltas[clip][label] for clip in clips]
    level = np.concatenate([np.asarray(levels, dtype=float) for levels, _ in parts])
    numbers = np.repeat(np.arange(len(clips)), [len(levels) for levels, _ in parts])
    found, false = (np.concatenate([change[key] for _, change in parts]).astype(int) for key in ("tps", "fps"))
    return level, numbers, found, false


def intersection_tallies(frames: Frames, truth: Truth, criteria: Criteria) -> dict[str, Tally]:
    """Events and detections that lie on each other, as PSDS counts them."""
    tallies = {}
    for label in truth.present:
        changes = count(stretches(frames.column(label), frames), truth, label, criteria)
        positives = truth.number(truth.classes.index(label), len(frames.clips))
        tallies[label] = Tally.of(changes.level, changes.clip, changes.found, changes.false, positives)
    return tallies


def clip_tallies(frames: Frames, truth: Truth) -> dict[str, Tally]:
    """Whole clips: the highest score of a clip against whether the class sounds in it."""
    tallies, starts = {}, frames.starts
    for label in truth.present:
        score = np.full(len(frames.clips), -np.inf)
        score[frames.clip[starts]] = np.maximum.reduceat(frames.column(label), starts)
        present = (truth.number(truth.classes.index(label), len(frames.clips)) > 0).astype(int)
        number = np.arange(len(frames.clips))
        tallies[label] = Tally.of(score, number, present, 1 - present, present, 1 - present)
    return tallies
