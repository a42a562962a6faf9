"""Scores + true events → metrics, all of them without the network that made the scores.

Every metric is given per class and as an average. A class without a true event in the set has no recall: it is left
out of all averages and named under ``classes_without_truth``.

- ``psds1``, ``psds2``, ``psds1_macro``: see ``sedflow.psds``. ``macro`` takes no penalty for uneven classes. Others by
  ``Rules.criteria``.
- ``…_f1``: at a threshold (``at_0.5``), and at the best threshold of each class (``best``; an optimistic number, since
  it is chosen on the same clips).
- ``collar_f1``: a detection is right when its onset lies within 200 ms of a true event's and its offset within
  200 ms or 20 % of the event's length, whichever is more; each event is matched once.
- ``onset_f1``: the same by onset alone (DCASE 2016 Task 2 takes its micro average).
- ``segment_f1``: the clip is cut into seconds; a second is right when detection and truth both touch it.
- ``segment_error_rate``: over those seconds, (substitutions + deletions + insertions) / true activity, all classes
  together; 0 is perfect and it may exceed 1.
- ``intersection_f1``: as in PSDS, half of a detection must lie on events, half of an event under detections.
- ``segment_mpauc_max_fpr_0.1``: the ROC over seconds, its area up to a false positive rate of 0.1, divided by 0.1.
- ``clip_map``, ``clip_d_prime``: whole clips, tagged by their highest frame: average precision, and how many standard
  deviations lie between clips with and without the class.

``macro_average`` and ``mean`` weigh classes alike, ``micro_average`` pools their counts. A number that is not defined
(a class that sounds in every clip has no false positive rate) is None and left out of the mean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sedflow import counting
from sedflow import psds as psds_counting
from sedflow.agreement import EvaluationError, check_agreement
from sedflow.counting import Collar
from sedflow.events import Event
from sedflow.psds import CRITERIA, Changes, Criteria, Curve
from sedflow.scores import Scores
from sedflow.stretches import Frames
from sedflow.tallies import Tally, f1_table
from sedflow.truth import Truth

COLLAR = Collar(onset=0.2, offset=0.2, rate=0.2)
ONSET = Collar(onset=0.2)
INTERSECTION = Criteria(dtc=0.5, gtc=0.5)
SEGMENT_SECONDS = 1.0
MAX_FPR = 0.1
PARTS = ("psds", "collar", "onset", "segment", "intersection", "clip")


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is evaluated, and how.

    Parameters
    ----------
    threshold : float    for the F1 scores and the error rate
    classes : sequence of str, optional    evaluate these only (AudioSet Strong: the 407 that both its parts have)
    drop_silent_clips : bool    leave out clips without events, and with them the false positives there
        As in the DCASE baselines and the published AudioSet Strong scores.
    criteria : mapping name → Criteria    the PSDS to measure
    parts : sequence of str    of ``PARTS``; what is left out is not counted
    best : bool    F1 at the best thresholds too
    """

    threshold: float = 0.5
    classes: Sequence[str] | None = None
    drop_silent_clips: bool = False
    criteria: Mapping[str, Criteria] = dataclasses.field(default_factory=lambda: dict(CRITERIA))
    parts: Sequence[str] = PARTS
    best: bool = True


def evaluate(
    scores: Mapping[str, Scores],
    truth: Mapping[str, Iterable[Event]],
    durations: Mapping[str, float],
    rules: Rules | None = None,
) -> dict:
    """Every metric of the module docstring, ready for JSON.

    Parameters
    ----------
    scores : mapping clip id → Scores    any range; −inf means never detected
    truth : mapping clip id → events    a clip that is missing has none
    durations : mapping clip id → seconds    names the clips to evaluate

    Raises
    ------
    EvaluationError    when the three disagree
    """
    return Evaluation(scores, truth, durations, rules).metrics()


class Evaluation:
    """Scores and truth, counted once, so that metrics follow for any weighting of the clips.

    The parameters are those of ``evaluate``.

    Raises
    ------
    EvaluationError    when scores, truth and durations disagree
    """

    def __init__(
        self,
        scores: Mapping[str, Scores],
        truth: Mapping[str, Iterable[Event]],
        durations: Mapping[str, float],
        rules: Rules | None = None,
    ):
        self.rules = rules = rules or Rules()
        if rules.classes is not None:
            scores, truth = select_classes(scores, truth, rules.classes)
        check_agreement(scores, truth, durations)
        if rules.drop_silent_clips:
            durations = {clip: seconds for clip, seconds in durations.items() if truth.get(clip)}
            if not durations:
                raise EvaluationError("every clip is silent: nothing is left to evaluate")
        scores = {clip: scores[clip] for clip in durations}
        self._seconds, self.clips = np.array(list(durations.values())), tuple(durations)
        frames = Frames.of(scores)
        self._truth = Truth(truth, self.clips, frames.classes)
        self.classes = tuple(self._truth.present)
        self.silent = [label for label in frames.classes if label not in self.classes]
        if self.classes:
            self._psds = self._count_psds(frames, durations) if "psds" in rules.parts else {}
            self._tallies = self._count(frames)
            if "segment" in rules.parts:
                judged = counting.Judged.of(scores, truth, durations, self.classes)
                segments = counting.segments_of(judged, SEGMENT_SECONDS)
                self._tallies["segment"] = {c: segments.tally(k, len(self.clips)) for k, c in enumerate(self.classes)}
                self._errors = segments.errors(rules.threshold, len(self.clips))

    def _count_psds(self, frames: Frames, durations: Mapping[str, float]) -> dict[str, dict[str, Changes]]:
        # criteria that differ in alpha_st alone have the same curves per class
        plain = {name: dataclasses.replace(c, alpha_st=0.0) for name, c in self.rules.criteria.items()}
        self._same = {name: next(other for other in plain if plain[other] == plain[name]) for name in plain}
        self._counted = {name: plain[name] for name in self._same.values()}
        hours = psds_counting.hours_of(frames, durations)
        return {
            label: psds_counting.count_class(
                frames.column(label), frames, self._truth, label, self._counted, hours, True
            )
            for label in self.classes
        }

    def _count(self, frames: Frames) -> dict[str, dict[str, Tally]]:
        ways = {
            "collar": lambda: counting.collar_tallies(frames, self._truth, COLLAR),
            "onset": lambda: counting.collar_tallies(frames, self._truth, ONSET),
            "intersection": lambda: counting.intersection_tallies(frames, self._truth, INTERSECTION),
            "clip": lambda: counting.clip_tallies(frames, self._truth),
        }
        return {part: count() for part, count in ways.items() if part in self.rules.parts}

    def metrics(self, weights: np.ndarray | None = None) -> dict:
        """All metrics.

        Parameters
        ----------
        weights : (clips,) float, optional    how often each of ``self.clips`` counts
        """
        weights = np.ones(len(self.clips)) if weights is None else weights
        result = {
            "clips": len(self.clips),
            "hours": round(float(weights @ self._seconds) / 3600, 9),
            "classes_without_truth": self.silent,
        }
        if not self.classes:
            return result
        if self._psds:
            rocs = {name: self._rocs(name, weights) for name in self._counted}
            for name, criteria in self.rules.criteria.items():
                result[name], result[f"{name}_per_class"] = psds_counting.psds_of(rocs[self._same[name]], criteria)
        for part in ("collar", "onset", "segment", "intersection"):
            result |= self._f1s(part, weights)
        return result | self._segment_metrics(weights) | self._clip_metrics(weights)

    def _rocs(self, name: str, weights: np.ndarray) -> dict[str, Curve]:
        hours, criteria = float(weights @ self._seconds) / 3600, self._counted[name]
        return {
            label: psds_counting.curve(counted[name], self._truth, label, criteria, weights, hours)
            for label, counted in self._psds.items()
            if self._truth.events(self._truth.classes.index(label), weights) > 0
        }

    @property
    def _at(self) -> str:
        return f"at_{self.rules.threshold:g}"

    def _f1s(self, part: str, weights: np.ndarray) -> dict:
        if part not in self._tallies:
            return {}
        tallies = self._tallies[part]
        at = {label: tally.at(self.rules.threshold, weights) for label, tally in tallies.items()}
        tables = {f"{part}_f1_{self._at}": f1_table(at)}
        if self.rules.best:
            best = {label: tally.at_best(weights)[0] for label, tally in tallies.items()}
            tables[f"{part}_best_f1"] = f1_table(best)
        return tables

    def _segment_metrics(self, weights: np.ndarray) -> dict:
        if "segment" not in self._tallies:
            return {}
        mpauc = {label: tally.auroc(weights, MAX_FPR) for label, tally in self._tallies["segment"].items()}
        *errors, active = self._errors @ weights
        rates = [float(error / max(active, 1e-12)) for error in errors]
        table = dict(zip(("substitutions", "deletions", "insertions"), rates, strict=True))
        return {
            f"segment_error_rate_{self._at}": table | {"error_rate": sum(rates)},
            f"segment_mpauc_max_fpr_{MAX_FPR:g}": _with_mean(mpauc),
        }

    def _clip_metrics(self, weights: np.ndarray) -> dict:
        tallies = self._tallies.get("clip", {})
        ways = {"clip_map": Tally.average_precision, "clip_d_prime": Tally.d_prime}
        return {
            name: _with_mean({label: way(tally, weights) for label, tally in tallies.items()})
            for name, way in ways.items()
            if tallies
        }


def _with_mean(per_class: Mapping[str, float]) -> dict[str, float | None]:
    finite = [value for value in per_class.values() if math.isfinite(value)]
    table = {label: value if math.isfinite(value) else None for label, value in per_class.items()}
    return table | {"mean": float(np.mean(finite)) if finite else None}


def select_classes(
    scores: Mapping[str, Scores], truth: Mapping[str, Iterable[Event]], classes: Sequence[str]
) -> tuple[dict[str, Scores], dict[str, list[Event]]]:
    """Scores and events of some classes.

    Raises
    ------
    EvaluationError    a class that the scores lack
    """
    known = next(iter(scores.values())).classes
    strangers = [label for label in classes if label not in known]
    if strangers:
        raise EvaluationError(
            f"{len(strangers)} classes have no scores, e.g. {strangers[:10]}; choose from {list(known)}"
        )
    columns = [known.index(label) for label in classes]
    kept = {clip: Scores(s.values[:, columns], s.edges, tuple(classes)) for clip, s in scores.items()}
    return kept, {clip: [e for e in events if e.label in classes] for clip, events in truth.items()}


def psds(
    scores: Mapping[str, Scores],
    truth: Mapping[str, Iterable[Event]],
    durations: Mapping[str, float],
    which: Sequence[str] = ("psds1", "psds2"),
) -> dict[str, float]:
    """PSDS alone, fast enough for every validation: name → value."""
    check_agreement(scores, truth, durations)
    wanted = {name: CRITERIA[name] for name in which}
    rocs = psds_counting.psd_rocs(scores, truth, durations, wanted)
    return {name: psds_counting.psds_of(rocs[name], wanted[name])[0] for name in which}


def segment_mpauc(
    scores: Mapping[str, Scores], truth: Mapping[str, Iterable[Event]], durations: Mapping[str, float]
) -> float:
    """Mean over classes of ``segment_mpauc_max_fpr_0.1`` alone, for validations; 0 where no class has it."""
    metrics = evaluate(scores, truth, durations, Rules(parts=("segment",), best=False))
    return metrics.get(f"segment_mpauc_max_fpr_{MAX_FPR:g}", {}).get("mean") or 0.0


def psd_roc(
    scores: Mapping[str, Scores],
    truth: Mapping[str, Iterable[Event]],
    durations: Mapping[str, float],
    which: str = "psds1",
) -> dict:
    """PSD-ROC for plots, ready for JSON: ``{"overall": curve, "per_class": {label: curve}, "max_efpr": 1/h}``.

    A curve is ``{"efpr": […], "tpr": […]}``, a staircase: each rate holds until the next point.
    """
    check_agreement(scores, truth, durations)
    criteria = CRITERIA[which]
    rocs = psds_counting.psd_rocs(scores, truth, durations, {which: criteria})[which]
    return {
        "overall": _points(psds_counting.overall(list(rocs.values()), criteria)) if rocs else {"efpr": [], "tpr": []},
        "per_class": {label: _points(roc) for label, roc in rocs.items()},
        "max_efpr": criteria.max_efpr,
    }


def _points(roc: Curve) -> dict[str, list[float]]:
    return {"efpr": roc.efpr.tolist(), "tpr": roc.tpr.tolist()}
