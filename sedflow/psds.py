"""PSDS, the polyphonic sound detection score, over every threshold at once.

At one threshold the frames at or above it form detections. A detection is *relevant* when at least ``dtc`` of its
length lies on true events of its class (detection tolerance criterion), else it is a false positive. A true event is
*found* when relevant detections cover at least ``gtc`` of it (ground truth intersection criterion). A false positive
that lies for at least ``cttc`` of its length on events of another class is a cross trigger for that class.

    true positive rate   TPR   = found events / true events
    false positive rate  eFPR  = false positives per hour + ``alpha_ct`` · mean over other classes of
                                 (cross triggers / hours in which that class sounds)

The threshold runs from high to low and draws TPR over eFPR per class: the PSD-ROC. PSDS is the area under
mean − ``alpha_st`` · standard deviation of the classes' curves, from 0 to ``max_efpr``, divided by ``max_efpr``.
PSDS1 rewards exact boundaries; PSDS2 tolerates them and punishes confusion of classes.

Counting is exact. When the threshold falls, a detection appears at its lowest frame's score and disappears when it
grows into a longer one; each such stretch of frames is judged once, not once per threshold.

Source: Bilen et al., ICASSP 2020 (the score); Ebbers et al., ICASSP 2022 (all thresholds at once). The numbers are
those of sed_scores_eval 0.0.4, ``intersection_based.psds``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from sedflow.events import Event
from sedflow.scores import Scores
from sedflow.stretches import Frames, Stretches, stretches

_DECIMALS = 6  # criteria are compared in microseconds, so that 0.7 of a length is met exactly
_HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class Criteria:
    """Parameters of a PSDS: two intersection criteria, the cross-trigger one, two penalties and the last eFPR (1/h)."""

    dtc: float
    gtc: float
    cttc: float | None = None
    alpha_ct: float = 0.0
    alpha_st: float = 0.0
    max_efpr: float = 100.0

    def __post_init__(self):
        if (self.cttc is None) != (self.alpha_ct == 0):
            raise ValueError(f"cttc and alpha_ct go together: got cttc={self.cttc}, alpha_ct={self.alpha_ct}")


CRITERIA = {
    "psds1": Criteria(dtc=0.7, gtc=0.7, alpha_st=1.0),
    "psds2": Criteria(dtc=0.1, gtc=0.1, cttc=0.3, alpha_ct=0.5, alpha_st=1.0),
    "psds1_macro": Criteria(dtc=0.7, gtc=0.7),
}


class Truth:
    """True events of all clips, ready to be asked how much of a stretch of time they cover.

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
        self._span = 1.0 + self.offset.max(initial=0.0)
        covered = np.cumsum(self.offset - self.onset)
        shift = self.segment * self._span
        self._knots = np.stack([self.onset + shift, self.offset + shift], axis=1).ravel()
        self._covered = np.stack([covered - (self.offset - self.onset), covered], axis=1).ravel()

    def segments(self, clip: np.ndarray, label: int) -> np.ndarray:
        """Segment of each clip for one class, −1 where the class is silent."""
        return self._segment_of[clip * len(self.classes) + label]

    def coverage(self, segment: np.ndarray, onset: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Seconds of [onset, offset] on the events of a segment; 0 where the segment is −1."""
        edge, shift = (
            self._span - 0.5,
            segment * self._span,
        )  # times behind the last event count up to the segment's end
        ends = [np.interp(np.minimum(t, edge) + shift, self._knots, self._covered) for t in (onset, offset)]
        return np.round(np.where(segment >= 0, ends[1] - ends[0], 0.0), _DECIMALS)

    def seconds(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Total length of each class's events, shape (classes,); clips count ``weights`` times."""
        lengths = self.offset - self.onset
        lengths = lengths if weights is None else lengths * weights[self.clip]
        return np.bincount(self.label, lengths, minlength=len(self.classes))


@dataclasses.dataclass(frozen=True)
class Changes:
    """How the counts of one class change as the threshold falls past ``level``.

    ``found`` and ``false`` are ±1 per row; cross triggers have rows of their own with the class they fall on.
    """

    level: np.ndarray
    clip: np.ndarray
    found: np.ndarray
    false: np.ndarray
    cross_level: np.ndarray
    cross_clip: np.ndarray
    cross_label: np.ndarray
    cross: np.ndarray


def count(detected: Stretches, truth: Truth, label: str, criteria: Criteria) -> Changes:
    """Judge each stretch once and note at which levels the counts change."""
    column = truth.classes.index(label)
    on_target = truth.coverage(truth.segments(detected.clip, column), detected.onset, detected.offset)
    relevant = on_target >= np.round(criteria.dtc * (detected.offset - detected.onset), _DECIMALS)
    false = detected.where(~relevant)
    found_level, found_clip, found = _found_events(detected.where(relevant), truth, column, criteria.gtc)
    level, clip, change = _appear_and_vanish(false)
    crossing, other = _cross_triggers(false, truth, column, criteria.cttc)
    cross_level, cross_clip, cross = _appear_and_vanish(crossing)
    return Changes(
        level=np.concatenate([level, found_level]),
        clip=np.concatenate([clip, found_clip]),
        found=np.concatenate([np.zeros_like(change), found]),
        false=np.concatenate([change, np.zeros_like(found)]),
        cross_level=cross_level,
        cross_clip=cross_clip,
        cross_label=np.concatenate([other, other[crossing.until > -np.inf]]),
        cross=cross,
    )


def _appear_and_vanish(some: Stretches):
    ends = some.until > -np.inf
    change = np.concatenate([np.ones(len(some.level), dtype=int), np.full(ends.sum(), -1)])
    return np.concatenate([some.level, some.until[ends]]), np.concatenate([some.clip, some.clip[ends]]), change


def _ragged(starts, ends):
    """Join the ranges [start, end): (index of the range, member)."""
    lengths = ends - starts
    row = np.repeat(np.arange(len(starts)), lengths)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + starts[row]


def _found_events(relevant: Stretches, truth: Truth, column: int, gtc: float):
    """Levels at which true events become found (+1) or lost (−1)."""
    of_class = np.flatnonzero(truth.label == column)
    onset, offset, clip = truth.onset[of_class], truth.offset[of_class], truth.clip[of_class]
    event, member = _ragged(np.searchsorted(relevant.clip, clip), np.searchsorted(relevant.clip, clip, side="right"))
    begin, end = np.maximum(relevant.onset[member], onset[event]), np.minimum(relevant.offset[member], offset[event])
    overlap = end - begin
    event, member, overlap = event[overlap > 0], member[overlap > 0], overlap[overlap > 0]
    ends = relevant.until[member] > -np.inf
    level = np.concatenate([relevant.level[member], relevant.until[member][ends]])
    event, overlap = np.concatenate([event, event[ends]]), np.concatenate([overlap, -overlap[ends]])

    order = np.lexsort((-level, event))
    level, event, total = level[order], event[order], np.cumsum(overlap[order])
    starts = np.searchsorted(event, np.arange(len(of_class)))
    covered = total - np.concatenate([[0.0], total])[starts][event]
    last = np.ones(len(level), dtype=bool)  # several changes at one level count together
    last[:-1] = (np.diff(level) != 0) | (np.diff(event) != 0)
    level, event, covered = level[last], event[last], covered[last]
    found = (np.round(covered, _DECIMALS) >= np.round(gtc * (offset - onset), _DECIMALS)[event]).astype(int)
    before = np.concatenate([[0], found[:-1]]) * np.concatenate([[False], np.diff(event) == 0])
    changed = found != before
    return level[changed], clip[event[changed]], (found - before)[changed]


def _cross_triggers(false: Stretches, truth: Truth, column: int, cttc: float | None):
    """False stretches that lie on another class's events, and that class; a stretch may cross several."""
    if cttc is None:
        return false.where(np.zeros(0, dtype=int)), np.zeros(0, dtype=int)
    starts = np.searchsorted(truth.segment_clip, false.clip)
    member, segment = _ragged(starts, np.searchsorted(truth.segment_clip, false.clip, side="right"))
    other = truth.segment_label[segment]
    member, segment, other = member[other != column], segment[other != column], other[other != column]
    pairs = false.where(member)
    enough = np.round(cttc * (pairs.offset - pairs.onset), _DECIMALS)
    crosses = truth.coverage(segment, pairs.onset, pairs.offset) >= enough
    return pairs.where(crosses), other[crosses]


@dataclasses.dataclass(frozen=True)
class Curve:
    """One class's PSD-ROC: a staircase of true positive rate over effective false positives per hour."""

    efpr: np.ndarray
    tpr: np.ndarray

    def at(self, efpr: np.ndarray) -> np.ndarray:
        """True positive rate reached with at most ``efpr``."""
        return self.tpr[np.searchsorted(self.efpr, efpr, side="right") - 1]

    def area(self, max_efpr: float) -> float:
        """Area from 0 to ``max_efpr``, divided by it."""
        return float(np.sum(self.tpr * np.diff(self.efpr, append=max_efpr)) / max_efpr)


def curve(changes: Changes, truth: Truth, label: str, criteria: Criteria, weights: np.ndarray, hours: float) -> Curve:
    """PSD-ROC of one class over clips that count ``weights`` times and last ``hours`` together."""
    column = truth.classes.index(label)
    events = np.bincount(truth.label, weights[truth.clip], minlength=len(truth.classes))
    seconds = truth.seconds(weights)
    others = np.flatnonzero(events > 0)
    share = criteria.alpha_ct * _HOUR / np.maximum(seconds, 1e-12) / max(1, len(others[others != column]))
    level = np.concatenate([changes.level, changes.cross_level])
    false_rate = np.concatenate([
        changes.false * weights[changes.clip] / hours,
        changes.cross * weights[changes.cross_clip] * share[changes.cross_label],
    ])  # fmt: skip
    found = np.concatenate([changes.found * weights[changes.clip], np.zeros(len(changes.cross_level))])
    order = np.argsort(-level, kind="stable")
    last = np.append(np.diff(level[order]) != 0, True) if len(order) else np.zeros(0, dtype=bool)
    efpr = np.concatenate([[0.0], np.cumsum(false_rate[order])[last]])
    tpr = np.concatenate([[0.0], np.cumsum(found[order])[last] / max(events[column], 1e-12)])
    return _staircase(efpr, tpr, criteria.max_efpr)


def _staircase(efpr, tpr, max_efpr) -> Curve:
    order = np.lexsort((tpr, efpr))
    efpr, tpr = efpr[order], np.maximum.accumulate(tpr[order])
    rises = np.append(True, np.diff(tpr) > 0)
    efpr, tpr = efpr[rises], tpr[rises]
    highest = np.append(np.diff(efpr) > 0, True)  # of points above each other
    within = highest & (efpr <= max_efpr)
    return Curve(efpr[within], tpr[within])


def overall(curves: Sequence[Curve], criteria: Criteria, chunk: int = 4096) -> Curve:
    """Mean − ``alpha_st`` · standard deviation of the classes' curves, never below 0."""
    efpr = np.unique(np.concatenate([c.efpr for c in curves]))
    tpr = np.empty_like(efpr)
    for begin in range(0, len(efpr), chunk):  # hundreds of classes times all points would not fit into memory
        rates = np.stack([c.at(efpr[begin : begin + chunk]) for c in curves])
        tpr[begin : begin + chunk] = rates.mean(axis=0) - criteria.alpha_st * rates.std(axis=0)
    return Curve(efpr, np.maximum(tpr, 0.0))


def floor_of(values: np.ndarray, frames: Frames, truth: Truth, label: str, criteria: Criteria, hours: float) -> float:
    """A score at which ``max_efpr`` is certainly exceeded, so that lower ones need not be looked at.

    Each clip without the class, but with a frame at or above the threshold, holds a false positive at least.
    """
    starts = frames.starts
    loudest = np.maximum.reduceat(values, starts)
    silent = truth.segments(frames.clip[starts], truth.classes.index(label)) < 0
    allowed = int(criteria.max_efpr * hours) + 1
    ranked = np.sort(loudest[silent])[::-1]
    return float(ranked[allowed]) if len(ranked) > allowed else -np.inf


def class_rocs(
    values: np.ndarray, frames: Frames, truth: Truth, label: str, wanted: Mapping[str, Criteria], hours: float
) -> dict[str, Curve]:
    """PSD-ROC of one class for several criteria, from its scores on ``frames``."""
    loosest = max(wanted.values(), key=lambda criteria: criteria.max_efpr)
    detected = stretches(values, frames, floor_of(values, frames, truth, label, loosest, hours))
    weights = np.ones(len(frames.clips))
    return {
        name: curve(count(detected, truth, label, criteria), truth, label, criteria, weights, hours)
        for name, criteria in wanted.items()
    }


def psd_rocs(
    scores: Mapping[str, Scores] | Frames,
    truth: Mapping[str, Iterable[Event]],
    durations: Mapping[str, float],
    wanted: Mapping[str, Criteria] = CRITERIA,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, dict[str, Curve]]:
    """PSD-ROCs: name of the criteria → class → curve.

    Classes without a true event are left out. ``progress`` wraps the loop over classes (a progress bar).
    """
    frames = scores if isinstance(scores, Frames) else Frames.of(scores)
    index = Truth(truth, frames.clips, frames.classes)
    hours = sum(durations[clip] for clip in frames.clips) / _HOUR
    present = [frames.classes[k] for k in np.unique(index.label)]
    per_class = {
        label: class_rocs(frames.column(label), frames, index, label, wanted, hours) for label in progress(present)
    }
    return {name: {label: rocs[name] for label, rocs in per_class.items()} for name in wanted}


def psds_of(rocs: Mapping[str, Curve], criteria: Criteria) -> tuple[float, dict[str, float]]:
    """PSDS over all classes and of each class alone (where no deviation between classes is taken off)."""
    per_class = {label: roc.area(criteria.max_efpr) for label, roc in rocs.items()}
    if not rocs:
        return float("nan"), per_class
    return overall(list(rocs.values()), criteria).area(criteria.max_efpr), per_class
