"""Scores + true events → metrics, all of them without the network that made the scores.

Every metric is given per class and as an average. A class without a true event in the set has no recall: it is left
out of all averages and named under ``classes_without_truth``.

- ``psds1``, ``psds2``, ``psds1_macro``: see ``sedflow.psds``. ``macro`` takes no penalty for uneven classes.
- ``collar_f1``: a detection is right when its onset lies within 200 ms of a true event's and its offset within
  200 ms or 20 % of the event's length, whichever is more; each event is matched once. F1 at a threshold (``at_0.5``)
  and at the best threshold of each class (``best``; an optimistic number, since it is chosen on the same clips).
- ``segment_f1``: the clip is cut into seconds; a second is right when detection and truth both touch it.
- ``intersection_f1``: as in PSDS, half of a detection must lie on events, half of an event under detections.
- ``segment_mpauc_max_fpr_0.1``: the ROC over seconds, its area up to a false positive rate of 0.1, divided by 0.1.

``macro_average`` weighs classes alike, ``micro_average`` pools their counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sedflow import psds as psds_counting
from sedflow.agreement import check_agreement
from sedflow.events import Event
from sedflow.psds import CRITERIA, Curve
from sedflow.scores import Scores
from sedflow.stretches import Frames

COLLAR = {"onset_collar": 0.2, "offset_collar": 0.2, "offset_collar_rate": 0.2}
INTERSECTION = {"dtc_threshold": 0.5, "gtc_threshold": 0.5}
SEGMENT_SECONDS = 1.0
MAX_FPR = 0.1


def evaluate(
    scores: Mapping[str, Scores],
    truth: Mapping[str, Iterable[Event]],
    durations: Mapping[str, float],
    threshold: float = 0.5,
) -> dict:
    """Every metric of the module head, ready for JSON.

    Parameters
    ----------
    scores : mapping clip id → Scores    any range; −inf means never detected
    truth : mapping clip id → events    a clip that is not there has none
    durations : mapping clip id → seconds    names the clips that are judged
    threshold : float    for the F1 scores that need one

    Raises
    ------
    EvaluationError    when the three disagree
    """
    check_agreement(scores, truth, durations)
    classes = next(iter(scores.values())).classes
    sounding = {event.label for events in truth.values() for event in events}
    result = {
        "clips": len(durations),
        "hours": round(sum(durations.values()) / 3600, 9),
        "classes_without_truth": [label for label in classes if label not in sounding],
    }
    if not sounding:
        return result
    rocs = psds_counting.psd_rocs(scores, truth, durations)
    for name, criteria in CRITERIA.items():
        result[name], result[f"{name}_per_class"] = psds_counting.psds_of(rocs[name], criteria)
    judged = [label for label in classes if label in sounding]
    return result | _library_metrics(*_library_inputs(scores, truth, durations, judged), threshold)


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


def collar_f1(
    label: str,
    values: np.ndarray,
    frames: Frames,
    truth: Mapping[str, Iterable[Event]],
    threshold: float | None = None,
) -> float:
    """Collar F1 of one class from its scores on ``frames``, at a threshold or (None) at the best one."""
    import pandas as pd

    from sedflow.compat import prepare_sed_scores_eval

    prepare_sed_scores_eval()
    from sed_scores_eval import collar_based

    whole = pd.DataFrame({"onset": frames.onset, "offset": frames.offset, label: values})
    bounds = np.append(frames.starts, len(frames.clip))
    scored = [frames.clips[k] for k in frames.clip[frames.starts]]
    tables = {clip: whole.iloc[b:e] for clip, b, e in zip(scored, bounds[:-1], bounds[1:], strict=True)}
    events = {clip: [(e.onset, e.offset, e.label) for e in truth.get(clip, ()) if e.label == label] for clip in scored}
    if threshold is None:
        return float(collar_based.best_fscore(tables, events, **COLLAR)[0][label])
    return float(collar_based.fscore(tables, events, threshold, **COLLAR)[0][label])


def _points(roc: Curve) -> dict[str, list[float]]:
    return {"efpr": roc.efpr.tolist(), "tpr": roc.tpr.tolist()}


def _library_inputs(scores, truth, durations, judged):
    """Tables, event tuples and durations as sed_scores_eval wants them."""
    tables = {clip: _until(scores[clip], durations[clip]).table()[["onset", "offset", *judged]] for clip in durations}
    events = {clip: [(e.onset, e.offset, e.label) for e in truth.get(clip, ())] for clip in durations}
    return tables, events, dict(durations)


def _until(scores: Scores, seconds: float) -> Scores:
    """Scores that reach the end of their clip; what no box covers is never detected."""
    if scores.seconds >= seconds or not np.isneginf(scores.values).any():
        return scores
    silence = np.full((1, len(scores.classes)), -np.inf)
    return Scores(np.concatenate([scores.values, silence]), np.append(scores.edges, seconds), scores.classes)


def _library_metrics(tables, events, durations, threshold):
    from sedflow.compat import prepare_sed_scores_eval

    prepare_sed_scores_eval()
    from sed_scores_eval import collar_based, intersection_based, segment_based

    segments = {"segment_length": SEGMENT_SECONDS}
    collar = collar_based.fscore(tables, events, threshold, **COLLAR)[0]
    best, *_ = collar_based.best_fscore(tables, events, **COLLAR)
    intersection = intersection_based.fscore(tables, events, threshold, **INTERSECTION)[0]
    segment = segment_based.fscore(tables, events, durations, threshold, **segments)[0]
    auroc = segment_based.auroc(tables, events, durations, max_fpr=MAX_FPR, **segments)[0]
    found = {
        f"collar_f1_at_{threshold:g}": collar,
        f"segment_f1_at_{threshold:g}": segment,
        f"intersection_f1_at_{threshold:g}": intersection,
        "collar_best_f1": best,
        f"segment_mpauc_max_fpr_{MAX_FPR:g}": auroc,
    }
    return {name: {label: float(value) for label, value in per_class.items()} for name, per_class in found.items()}
