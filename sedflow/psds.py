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
from sedflow.truth import DECIMALS, Truth, join_ranges

_HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class Criteria:
    """Parameters of a PSDS: two intersection criteria, the cross-trigger one, two penalties and the last eFPR (1/h).

    Raises
    ------
    ValueError    a parameter outside its range, or one of ``cttc`` and ``alpha_ct`` without the other
    """

    dtc: float
    gtc: float
    cttc: float | None = None
    alpha_ct: float = 0.0
    alpha_st: float = 0.0
    max_efpr: float = 100.0

    def __post_init__(self):
        shares = {"dtc": self.dtc, "gtc": self.gtc, "cttc": 1.0 if self.cttc is None else self.cttc}
        if odd := [f"{name}={value:g}" for name, value in shares.items() if not 0 < value <= 1]:
            raise ValueError(f"{odd[0]} is a share of a length: it must be above 0 and at most 1")
        penalties = {"alpha_ct": self.alpha_ct, "alpha_st": self.alpha_st}
        if odd := [f"{name}={value:g}" for name, value in penalties.items() if not 0 <= value < np.inf]:
            raise ValueError(f"{odd[0]} is a penalty: it must be 0 or more")
        if not 0 < self.max_efpr < np.inf:
            raise ValueError(f"max_efpr={self.max_efpr:g} is a number of false positives per hour: it must be above 0")
        if (self.cttc is None) != (self.alpha_ct == 0):
            raise ValueError(f"cttc and alpha_ct go together: got cttc={self.cttc}, alpha_ct={self.alpha_ct}")


CRITERIA = {
    "psds1": Criteria(dtc=0.7, gtc=0.7, alpha_st=1.0),
    "psds2": Criteria(dtc=0.1, gtc=0.1, cttc=0.3, alpha_ct=0.5, alpha_st=1.0),
    "psds1_macro": Criteria(dtc=0.7, gtc=0.7),
}


@dataclasses.dataclass(frozen=True)
class Changes:
    """How the counts of one class change as the threshold falls past ``level``; rows in order of falling level.

    ``found``, ``false`` and ``cross`` are changes; ``other`` is the class that a cross trigger falls on.
    """

    level: np.ndarray
    clip: np.ndarray
    found: np.ndarray
    false: np.ndarray
    cross: np.ndarray
    other: np.ndarray

    def netted(self) -> Changes:
        """Without what cancels: most stretches vanish because they grow, and are judged as before."""
        order = np.lexsort((self.other, self.clip, -self.level))
        level, clip, other = self.level[order], self.clip[order], self.other[order]
        apart = (np.diff(level) != 0) | (np.diff(clip) != 0) | (np.diff(other) != 0)
        firsts = np.flatnonzero(np.append(True, apart)[: len(level)])
        kinds = (self.found, self.false, self.cross)
        sums = [np.add.reduceat(kind[order], firsts) if len(firsts) else kind for kind in kinds]
        stays = np.any(sums, axis=0)
        rows = (level[firsts], clip[firsts], *sums, other[firsts])
        return Changes(*(values[stays] for values in rows))


def count(detected: Stretches, truth: Truth, label: str, criteria: Criteria) -> Changes:
    """Judge each stretch once and note at which levels the counts change."""
    column = truth.classes.index(label)
    on_target = truth.coverage(truth.segments(detected.clip, column), detected.onset, detected.offset)
    relevant = on_target >= np.round(criteria.dtc * (detected.offset - detected.onset), DECIMALS)
    false = detected.where(~relevant)
    found = _found_events(detected.where(relevant), truth, column, criteria.gtc)
    crossing, other = _cross_triggers(false, truth, column, criteria.cttc)
    kinds = (found, appear_and_vanish(false), appear_and_vanish(crossing))
    level, clip, change = (np.concatenate(parts) for parts in zip(*kinds, strict=True))
    kind = np.repeat(np.arange(3), [len(levels) for levels, _, _ in kinds])
    others = np.zeros(len(level), dtype=int)
    others[kind == 2] = np.concatenate([other, other[crossing.until > -np.inf]])
    order = np.argsort(-level, kind="stable")
    return Changes(
        level[order], clip[order], *(np.where(kind == k, change, 0)[order] for k in range(3)), other=others[order]
    )


def appear_and_vanish(some: Stretches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels, clips and changes: +1 where a stretch appears, −1 where it vanishes."""
    ends = some.until > -np.inf
    change = np.concatenate([np.ones(len(some.level), dtype=int), np.full(ends.sum(), -1)])
    return np.concatenate([some.level, some.until[ends]]), np.concatenate([some.clip, some.clip[ends]]), change


def _found_events(relevant: Stretches, truth: Truth, column: int, gtc: float):
    """Levels at which true events become found (+1) or lost (−1)."""
    event, member = truth.pairs(relevant.clip, column)
    onset, offset = truth.onset[event], truth.offset[event]
    begin, end = np.maximum(relevant.onset[member], onset), np.minimum(relevant.offset[member], offset)
    overlap = end - begin
    event, member, overlap = event[overlap > 0], member[overlap > 0], overlap[overlap > 0]
    ends = relevant.until[member] > -np.inf
    level = np.concatenate([relevant.level[member], relevant.until[member][ends]])
    event, overlap = np.concatenate([event, event[ends]]), np.concatenate([overlap, -overlap[ends]])

    order = np.lexsort((-level, event))
    level, event, total = level[order], event[order], np.cumsum(overlap[order])
    starts = np.searchsorted(event, event)
    covered = total - np.append(0.0, total)[starts]
    last = np.ones(len(level), dtype=bool)  # several changes at one level count together
    last[:-1] = (np.diff(level) != 0) | (np.diff(event) != 0)
    level, event, covered = level[last], event[last], covered[last]
    enough = np.round(gtc * (truth.offset - truth.onset)[event], DECIMALS)
    found = (np.round(covered, DECIMALS) >= enough).astype(int)
    before = np.concatenate([[0], found[:-1]]) * np.concatenate([[False], np.diff(event) == 0])
    changed = found != before
    return level[changed], truth.clip[event[changed]], (found - before)[changed]


def _cross_triggers(false: Stretches, truth: Truth, column: int, cttc: float | None):
    """False stretches that lie on another class's events, and that class; a stretch may cross several."""
    if cttc is None:
        return false.where(np.zeros(0, dtype=int)), np.zeros(0, dtype=int)
    starts = np.searchsorted(truth.segment_clip, false.clip)
    member, segment = join_ranges(starts, np.searchsorted(truth.segment_clip, false.clip, side="right"))
    other = truth.segment_label[segment]
    member, segment, other = member[other != column], segment[other != column], other[other != column]
    pairs = false.where(member)
    enough = np.round(cttc * (pairs.offset - pairs.onset), DECIMALS)
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
    others = np.count_nonzero(np.delete(events, column))
    share = criteria.alpha_ct * _HOUR / np.maximum(truth.seconds(weights), 1e-12) / max(1, others)
    of_clip = weights[changes.clip]
    false_rate = of_clip * changes.false / hours
    if criteria.alpha_ct:
        false_rate += of_clip * changes.cross * share[changes.other]
    last = np.append(changes.level[1:] != changes.level[:-1], True)[: len(changes.level)]
    efpr = np.append(0.0, np.cumsum(false_rate)[last])
    tpr = np.append(0.0, np.cumsum(of_clip * changes.found)[last] / max(events[column], 1e-12))
    return _staircase(efpr, tpr, criteria.max_efpr)


def _staircase(efpr, tpr, max_efpr) -> Curve:
    within = efpr <= max_efpr
    efpr, tpr = efpr[within], tpr[within]
    order = np.lexsort((tpr, efpr))
    efpr, tpr = efpr[order], np.maximum.accumulate(tpr[order])
    rises = np.append(True, np.diff(tpr) > 0)
    efpr, tpr = efpr[rises], tpr[rises]
    highest = np.append(np.diff(efpr) > 0, True)  # of points above each other
    return Curve(efpr[highest], tpr[highest])


def overall(curves: Sequence[Curve], criteria: Criteria, chunk: int = 4096) -> Curve:
    """Mean − ``alpha_st`` · standard deviation of the classes' curves, never below 0."""
    efpr = np.unique(np.concatenate([c.efpr for c in curves]))
    tpr = np.empty_like(efpr)
    for begin in range(0, len(efpr), chunk):  # hundreds of classes times all points would not fit into memory
        rates = np.stack([c.at(efpr[begin : begin + chunk]) for c in curves])
        tpr[begin : begin + chunk] = rates.mean(axis=0) - criteria.alpha_st * rates.std(axis=0)
    return Curve(efpr, np.maximum(tpr, 0.0))


def floor_of(values: np.ndarray, frames: Frames, truth: Truth, label: str, allowed: float) -> float:
    """A score at which ``allowed`` false positives are certainly exceeded, so that lower ones need not be looked at.

    Each clip without the class, but with a frame at or above the threshold, holds a false positive at least.
    """
    starts = frames.starts
    loudest = np.maximum.reduceat(values, starts)
    silent = truth.segments(frames.clip[starts], truth.classes.index(label)) < 0
    ranked = np.sort(loudest[silent])[::-1]
    return float(ranked[int(allowed) + 1]) if len(ranked) > int(allowed) + 1 else -np.inf


def count_class(
    values: np.ndarray,
    frames: Frames,
    truth: Truth,
    label: str,
    wanted: Mapping[str, Criteria],
    hours: float,
    resampled: bool = False,
) -> dict[str, Changes]:
    """Count one class for several criteria, down to the score at which all their curves have ended.

    ``resampled`` goes further down: clips will be drawn at random, and the draw may leave out half of the loud ones.
    """
    allowed = hours * max(criteria.max_efpr for criteria in wanted.values())
    allowed += allowed + 100 if resampled else 0
    detected = stretches(values, frames, floor_of(values, frames, truth, label, allowed))
    counted = {name: count(detected, truth, label, criteria) for name, criteria in wanted.items()}
    return {name: changes.netted() for name, changes in counted.items()} if resampled else counted


def hours_of(frames: Frames, durations: Mapping[str, float]) -> float:
    """Length of all clips together."""
    return sum(durations[clip] for clip in frames.clips) / _HOUR


def class_rocs(
    values: np.ndarray, frames: Frames, truth: Truth, label: str, wanted: Mapping[str, Criteria], hours: float
) -> dict[str, Curve]:
    """PSD-ROC of one class for several criteria, from its scores on ``frames``."""
    counted = count_class(values, frames, truth, label, wanted, hours)
    weights = np.ones(len(frames.clips))
    return {name: curve(counted[name], truth, label, wanted[name], weights, hours) for name in wanted}


def psd_rocs(
    scores: Mapping[str, Scores] | Frames,
    truth: Mapping[str, Iterable[Event]],
    durations: Mapping[str, float],
    wanted: Mapping[str, Criteria] = CRITERIA,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, dict[str, Curve]]:
    """PSD-ROCs: name of the criteria → class → curve.

    Classes without a true event are left out. ``Frames.reading`` takes a file that does not fit into memory, one class
    at a time. ``progress`` wraps the loop over classes (a progress bar).
    """
    frames = scores if isinstance(scores, Frames) else Frames.of(scores)
    index = Truth(truth, frames.clips, frames.classes)
    hours = hours_of(frames, durations)
    rocs: dict[str, dict[str, Curve]] = {name: {} for name in wanted}
    for label in progress(index.present):
        of_class = class_rocs(frames.column(label), frames, index, label, wanted, hours)
        for name in wanted:
            rocs[name][label] = of_class[name]
    return rocs


def psds_of(rocs: Mapping[str, Curve], criteria: Criteria) -> tuple[float, dict[str, float]]:
    """PSDS over all classes and of each class alone (where no deviation between classes is taken off)."""
    per_class = {label: roc.area(criteria.max_efpr) for label, roc in rocs.items()}
    if not rocs:
        return float("nan"), per_class
    return overall(list(rocs.values()), criteria).area(criteria.max_efpr), per_class
