"""Where a detector is wrong: events found and missed, false detections and what sounded instead, calibration.

A detection is *right* when at least half of it is covered by events of its class; an event is *found* when at least
half of it is covered by right detections. That is the intersection criterion with DTC = GTC = 0.5, so the counts here
are those of the intersection F1.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sedflow.events import Event, merge_events
from sedflow.psds import Criteria, Truth, count
from sedflow.scores import Scores
from sedflow.stretches import Frames, stretches

HALF = 0.5
CROSS_TRIGGER_SHARE = 0.3  # PSDS's CTTC: a false detection belongs to another class when that covers so much of it
NOTHING = "nothing"
DURATION_EDGES = (0.0, 0.5, 1.0, 2.0, 5.0, np.inf)
BINS = 10  # of scores, in reliability diagrams
SNR_EDGES = (-np.inf, 6.0, 12.0, 18.0, 24.0, np.inf)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One clip's events and detections, sorted into right and wrong."""

    found: list[Event]
    missed: list[Event]
    right: list[Event]
    wrong: list[Event]

    @property
    def f1(self) -> float:
        """2·found / (2·found + missed + wrong); 1 when nothing sounds and nothing is detected."""
        f1 = precision_recall_f1(len(self.found), len(self.missed), len(self.wrong))[2]
        return 1.0 if f1 is None else f1


@dataclasses.dataclass(frozen=True)
class Bin:
    """Events of one kind: how many there are and how many were found."""

    name: str
    found: int
    total: int


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Reliability of frame scores: per bin the mean score, the share of frames in which the class sounds, frames."""

    mean_score: np.ndarray
    share_active: np.ndarray
    frames: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of score and share, weighted by frames."""
        filled = self.frames > 0
        distance = np.abs(self.mean_score[filled] - self.share_active[filled])
        return float(np.average(distance, weights=self.frames[filled]))


def covered_share(event: Event, others: Iterable[Event]) -> float:
    """Share of an event's length in which at least one of ``others`` sounds, whatever its label."""
    union = merge_events(dataclasses.replace(other, label="") for other in others)
    inside = sum(max(0.0, min(event.offset, o.offset) - max(event.onset, o.onset)) for o in union)
    return inside / (event.offset - event.onset)


def match_events(truth: Sequence[Event], detections: Sequence[Event]) -> Judgement:
    """Separate found from missed events and right from wrong detections in one clip."""
    judgement = Judgement([], [], [], [])
    for detection in detections:
        own = [event for event in truth if event.label == detection.label]
        is_right = covered_share(detection, own) >= HALF
        (judgement.right if is_right else judgement.wrong).append(detection)
    for event in truth:
        own = [detection for detection in judgement.right if detection.label == event.label]
        is_found = covered_share(event, own) >= HALF
        (judgement.found if is_found else judgement.missed).append(event)
    return judgement


def precision_recall_f1(found: int, missed: int, wrong: int) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and F1 of counts; None where there is nothing to divide by."""
    ratios = ((found, found + wrong), (found, found + missed), (2 * found, 2 * found + missed + wrong))
    return tuple(part / whole if whole else None for part, whole in ratios)


def operating_points(
    scores: Mapping[str, Scores], truth: Mapping[str, Sequence[Event]], thresholds: Sequence[float]
) -> dict[str, np.ndarray]:
    """Events found, events missed and false detections at each threshold.

    Returns
    -------
    dict    label of each class with events → (thresholds, 3) int
    """
    frames = Frames.of(scores)
    index = Truth(truth, frames.clips, frames.classes)
    criteria = Criteria(dtc=HALF, gtc=HALF)
    points = {}
    for column, events in enumerate(np.bincount(index.label, minlength=len(frames.classes))):
        if events:
            label = frames.classes[column]
            changes = count(stretches(frames.column(label), frames), index, label, criteria)
            order = np.argsort(-changes.level)
            passed = np.searchsorted(-changes.level[order], -np.asarray(thresholds), side="right")
            found, wrong = (np.r_[0, np.cumsum(c[order])][passed] for c in (changes.found, changes.false))
            points[label] = np.stack([found, events - found, wrong], axis=1).astype(int)
    return points


def count_by_duration(judgements: Iterable[Judgement]) -> list[Bin]:
    """Found events by their length."""
    lengths = [(e.offset - e.onset, found) for j in judgements for e, found in _events(j)]
    return _count_bins(lengths, DURATION_EDGES, "s")


def count_by_snr(judgements: Mapping[str, Judgement], snrs: Mapping[str, list[tuple[Event, float]]]) -> list[Bin]:
    """Found events by signal-to-noise ratio; empty when no clip records how loud its events are.

    Parameters
    ----------
    snrs : clip id → list of (event as it was put into the clip, dB over the background)
        A labelled event takes the loudest of the events of its class that it overlaps.
    """
    levels = []
    for clip, judgement in judgements.items():
        for event, found in _events(judgement):
            own = [snr for other, snr in snrs.get(clip, []) if other.label == event.label and _touch(other, event)]
            levels += [(max(own), found)] if own else []
    return _count_bins(levels, SNR_EDGES, "dB") if levels else []


def count_by_overlap(judgements: Iterable[Judgement]) -> list[Bin]:
    """Found events by the share of their length in which other classes sound too."""
    counts = {name: [0, 0] for name in ("alone", "less than half overlapped", "half or more overlapped")}
    for judgement in judgements:
        everything = judgement.found + judgement.missed
        for event, found in _events(judgement):
            share = covered_share(event, [other for other in everything if other.label != event.label])
            name = "alone" if share == 0 else "less than half overlapped" if share < HALF else "half or more overlapped"
            counts[name][0] += found
            counts[name][1] += 1
    return [Bin(name, found, total) for name, (found, total) in counts.items() if total]


def confusion(judgements: Iterable[Judgement], classes: Sequence[str]) -> np.ndarray:
    """What sounded during the detections of each class.

    Returns
    -------
    (classes, classes + 1) int
        Row: detected class. Column: its own class for a right detection; for a wrong one the other class that covers
        most of it, if that is at least 30 %; last column: nothing.
    """
    counts = np.zeros((len(classes), len(classes) + 1), dtype=int)
    column = {label: k for k, label in enumerate(classes)}
    for judgement in judgements:
        for detection in judgement.right:
            counts[column[detection.label], column[detection.label]] += 1
        for detection in judgement.wrong:
            counts[column[detection.label], column.get(_sounding(detection, judgement), len(classes))] += 1
    return counts


def cooccurrence(labels: Iterable[Iterable[str]], classes: Sequence[str]) -> np.ndarray:
    """Clips in which two classes both sound, shape (classes, classes); the diagonal counts the clips of a class."""
    present = np.array([[label in set(of_clip) for label in classes] for of_clip in map(list, labels)], dtype=int)
    return present.T @ present if len(present) else np.zeros((len(classes), len(classes)), dtype=int)


def calibrate(scores: Mapping[str, Scores], truth: Mapping[str, Sequence[Event]], label: str):
    """Reliability of one class's frame scores, or None when they are not between 0 and 1.

    A frame is active when its centre lies inside an event.
    """
    totals = np.zeros((3, BINS))
    for clip, of_clip in scores.items():
        values = of_clip.column(label)
        if values.min() < 0 or values.max() > 1:
            return None
        active = frames_active(of_clip.edges, [e for e in truth.get(clip, []) if e.label == label])
        place = np.minimum((values * BINS).astype(int), BINS - 1)
        for row, weights in enumerate((values, active, np.ones_like(values))):
            totals[row] += np.bincount(place, weights, minlength=BINS)
    frames = np.maximum(totals[2], 1)
    return Calibration(totals[0] / frames, totals[1] / frames, totals[2].astype(int))


def pool_calibrations(parts: Sequence[Calibration]) -> Calibration:
    """All classes together, every frame of every class counting once."""
    frames = np.sum([part.frames for part in parts], axis=0)
    weight = np.maximum(frames, 1)
    mean_score = np.sum([part.mean_score * part.frames for part in parts], axis=0) / weight
    return Calibration(mean_score, np.sum([p.share_active * p.frames for p in parts], axis=0) / weight, frames)


def frames_active(edges: np.ndarray, events: Iterable[Event]) -> np.ndarray:
    """Frames whose centre lies inside an event, shape (frames,) bool."""
    centres = (edges[1:] + edges[:-1]) / 2
    active = np.zeros(len(centres), dtype=bool)
    for event in events:
        active |= (centres >= event.onset) & (centres < event.offset)
    return active


def _events(judgement: Judgement) -> list[tuple[Event, bool]]:
    return [(event, True) for event in judgement.found] + [(event, False) for event in judgement.missed]


def _touch(a: Event, b: Event) -> bool:
    return a.onset < b.offset and b.onset < a.offset


def _sounding(detection: Event, judgement: Judgement) -> str:
    others: dict[str, list[Event]] = {}
    for event in judgement.found + judgement.missed:
        if event.label != detection.label:
            others.setdefault(event.label, []).append(event)
    shares = {label: covered_share(detection, events) for label, events in others.items()}
    best = max(sorted(shares), key=shares.get, default=NOTHING)
    return best if shares.get(best, 0) >= CROSS_TRIGGER_SHARE else NOTHING


def _count_bins(values: Sequence[tuple[float, bool]], edges: Sequence[float], unit: str) -> list[Bin]:
    counted = []
    for low, high in itertools.pairwise(edges):
        inside = [found for value, found in values if low <= value < high]
        first, last = low in (0, -np.inf), high == np.inf
        name = f"under {high:g} {unit}" if first else f"{low:g} {unit} and more" if last else f"{low:g}–{high:g} {unit}"
        if inside:
            counted.append(Bin(name, sum(inside), len(inside)))
    return counted
