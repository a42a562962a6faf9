"""Choose post-processing settings per class: try every candidate, keep the best on validation.

Objectives: ``psds1``, ``psds2`` and ``psds1+psds2`` (their mean) are those of the class alone; ``collar_f1`` is the F1
with a 200 ms collar at the class's best threshold; ``collar_f1_at_0.5`` at threshold 0.5, the one that ``threshold``
needs, since PSDS does not depend on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from sedflow import psds
from sedflow.agreement import check_agreement
from sedflow.counting import collar_tally
from sedflow.detections import DEFAULT_THRESHOLD
from sedflow.evaluation import COLLAR, INTERSECTION
from sedflow.events import Event
from sedflow.postprocess import KINDS, PostprocessError, one_class
from sedflow.postprocess_checks import check_objective, combinations
from sedflow.scores import Scores
from sedflow.stretches import Frames, stretches
from sedflow.tallies import Tally, f1
from sedflow.truth import Truth

_CSEBBS_STEPS = (0.32, 0.48, 0.64)
CANDIDATES: dict[str, list[dict]] = {
    "none": [{}],
    "median_filter": [{"seconds": s} for s in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2, 1.6, 2.0)],
    "frame_median_filter": [{"frames": n} for n in (1, 3, 5, 7, 9, 11, 13, 17, 21, 27)],
    "csebbs": [
        *({"step_seconds": t, "merge_absolute": a} for t, a in itertools.product(_CSEBBS_STEPS, (0.15, 0.2, 0.3))),
        *(
            {"step_seconds": t, "merge_absolute": None, "merge_relative": r}
            for t, r in itertools.product(_CSEBBS_STEPS, (1.5, 2.0, 3.0))
        ),
    ],
    "threshold": [{"threshold": round(t, 2)} for t in (0.5, *np.arange(0.05, 0.5, 0.05), *np.arange(0.55, 1, 0.05))],
    "minimum_duration": [
        {"seconds": d, "gap_seconds": g} for d, g in itertools.product((0.0, 0.1, 0.2, 0.3, 0.5), (0.0, 0.1, 0.2, 0.4))
    ],
    "hysteresis": [{"ratio": r} for r in (1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1)],
}


def tune_classes(
    kind: str,
    candidates: Sequence[Mapping] | None,
    scores: Mapping[str, Scores],
    truth: Mapping[str, Iterable[Event]],
    durations: Mapping[str, float],
    split: str,
    objective: str = "psds1+psds2",
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict:
    """Find the best settings of each class.

    Parameters
    ----------
    kind : str    a post-processor, or "none"
    candidates : sequence of settings, or None for ``CANDIDATES[kind]``
        Of equal ones the first wins. A list of numbers in a setting stands for each of them, see ``combinations``.
    split : str    where scores and truth come from; "test" is refused
    progress : callable    wraps the loop over classes

    Returns
    -------
    dict    what ``postprocess.build`` takes and what travels with the detector: ``name``, ``settings`` per class,
            ``thresholds`` for detections (0.5 where the settings move a threshold there, or were tuned for it, else
            that of the best intersection F1), ``tuned_on``, ``objective``, and the objective ``reached`` with the
            settings and ``untouched`` without

    Raises
    ------
    PostprocessError    the split is for testing, no such kind or objective, a threshold tuned for PSDS
    """
    _check(kind, split, objective)
    check_agreement(scores, truth, durations)
    frames = Frames.of(scores)
    candidates = [
        c for spec in (CANDIDATES.get(kind, []) if candidates is None else candidates) for c in combinations(spec)
    ]
    if not candidates:
        raise PostprocessError(f"post-processing {kind!r} needs candidates to choose from")
    worth_of = _Worth(frames, truth, durations, objective)
    steps = [one_class(kind, candidate) for candidate in candidates]
    best, reached, untouched, thresholds, overall = {}, {}, {}, {}, np.zeros(len(steps))
    for label in progress(worth_of.present):
        values = frames.column(label)
        tried = np.array([worth_of(label, *step(values, frames)) for step in steps])
        best[label], reached[label] = int(tried.argmax()), float(tried.max())
        untouched[label], overall = worth_of(label, values, frames), overall + tried
        if objective.endswith("at_0.5") or _moves_threshold(kind, candidates[best[label]]):
            thresholds[label] = DEFAULT_THRESHOLD
        else:
            thresholds[label] = worth_of.threshold(label, *steps[best[label]](values, frames))
    fallback = int(overall.argmax())  # a class that validation lacks gets what serves the others best
    return {
        "name": kind,
        "settings": {label: candidates[best.get(label, fallback)] for label in frames.classes},
        "thresholds": thresholds,
        "tuned_on": split,
        "objective": objective,
        "reached": reached,
        "untouched": untouched,
    }


def _moves_threshold(kind: str, candidate: Mapping) -> bool:
    """Whether a candidate sets the score above which an event is reported."""
    names = [candidate.get("name", kind), *(step.get("name") for step in candidate.get("steps", ()))]
    return "threshold" in names


def join(parts: Sequence[Mapping], elsewhere: Mapping | None = None) -> dict:
    """What was tuned on several corpora: each class as on the first one in which it sounds, else as on the first.

    Parameters
    ----------
    elsewhere : settings, optional    of classes that sound in none of them, instead of those of the first
    """
    first = dict(parts[0])
    if elsewhere is not None:
        first["settings"] = dict.fromkeys(first["settings"], elsewhere)
    for part in reversed(parts):
        own = {label: part["settings"][label] for label in part["reached"]}
        first["settings"] = first["settings"] | own
        for key in ("thresholds", "reached", "untouched"):
            first[key] = first[key] | part[key]
    return first


def _check(kind, split, objective):
    if "test" in split.lower() or "eval" in split.lower():
        raise PostprocessError(
            f"post-processing must not be tuned on {split!r}: the score would be chosen, not measured. "
            "Tune on validation scores and apply the result to the test scores"
        )
    if kind not in KINDS:
        raise PostprocessError(f"no post-processor {kind!r}; choose from {sorted(KINDS)}")
    check_objective(kind, objective)


class _Worth:
    """Worth of one class's scores under the objective."""

    def __init__(self, frames, truth, durations, objective):
        self._objective, self._ones = objective, np.ones(len(frames.clips))
        self._index = Truth(truth, frames.clips, frames.classes)
        self._hours = psds.hours_of(frames, durations)
        self.present = self._index.present

    def __call__(self, label, values, frames) -> float:
        if self._objective.startswith("collar_f1"):
            tally = collar_tally(values, frames, self._index, label, COLLAR)
            at_half = self._objective.endswith("0.5")
            return float(f1(tally.at(0.5, self._ones) if at_half else tally.at_best(self._ones)[0]))
        wanted = {name: psds.CRITERIA[name] for name in self._objective.split("+")}
        rocs = psds.class_rocs(values, frames, self._index, label, wanted, self._hours)
        return float(np.mean([rocs[name].area(wanted[name].max_efpr) for name in wanted]))

    def threshold(self, label, values, frames) -> float:
        """Threshold with the best intersection F1."""
        found = psds.count(stretches(values, frames), self._index, label, INTERSECTION)
        positives = self._index.number(frames.classes.index(label), len(frames.clips))
        tally = Tally.of(found.level, found.clip, found.found, found.false, positives)
        counts, threshold = tally.at_best(self._ones)
        return threshold if counts[0] else DEFAULT_THRESHOLD
