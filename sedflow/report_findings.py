"""How good a system is and where it is wrong, for the report: PSD-ROC, classes, mistakes, calibration, thresholds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sedflow.clip_cards import Study, best_and_worst, clip_card, snrs_of
from sedflow.comparison import chosen_scores
from sedflow.detections import detect_events
from sedflow.events import Clip
from sedflow.figures import GREY, STYLES, Axis, Line, bar, heatmap, line_chart, most_frequent, roc_line, styles_of
from sedflow.judge import of_corpus
from sedflow.mistakes import (
    NOTHING,
    Bin,
    calibrate,
    confusion,
    count_by_duration,
    count_by_overlap,
    count_by_snr,
    match_events,
    operating_points,
    pool_calibrations,
    precision_recall_f1,
)
from sedflow.runs import HEADLINES, RunFolder
from sedflow.scores import Scores

SPLIT = "test"
CLIPS_EACH = 10
THRESHOLDS = 49
CLASS_METRICS = ("psds1", "psds2", "collar_f1_at_0.5")


def study_run(run: RunFolder, folder: Path) -> tuple[Study, dict[str, Scores]]:
    """Judge the chosen network of a run on the test clips of a corpus; returns the study and the raw scores."""
    raw, processed, spec = chosen_scores(run, SPLIT)
    scores, events, durations = of_corpus(folder, SPLIT, processed)
    raw, _, _ = of_corpus(folder, SPLIT, raw)
    classes = next(iter(raw.values())).classes
    thresholds = {label: 0.5 for label in classes} | (spec.get("thresholds") or {})
    detections = detect_events(scores, thresholds)
    truth = {clip: events.get(clip, []) for clip in durations}
    judgements = {clip: match_events(truth[clip], detections.get(clip, [])) for clip in durations}
    return Study(scores, truth, detections, judgements, thresholds), raw


def stage_styles(runs: Sequence[RunFolder]) -> dict[tuple[str, str], str]:
    """A colour per variant and stage: the first stage grey, later ones in colours."""
    keys = list(dict.fromkeys((run.variant, run.stage) for run in runs))
    return styles_of(keys, (GREY, *STYLES) if len(keys) > 1 else STYLES)


def stage_names(runs: Sequence[RunFolder]) -> dict[tuple[str, str], str]:
    """How variant and stage are called on the page: the stage alone when there is one variant."""
    several = len({run.variant for run in runs}) > 1
    return {(run.variant, run.stage): f"{run.variant}/{run.stage}" if several else run.stage for run in runs}


def frequent_classes(study: Study) -> list[str]:
    """The classes with the most events, in the order of the score columns; figures show no more than these."""
    return most_frequent(study.classes, Counter(event.label for events in study.truth.values() for event in events))


def roc_section(runs: Sequence[RunFolder], shown: Sequence[str]) -> dict:
    """PSD-ROC of every run, all classes together first; further seeds of a stage are drawn faint."""
    styles, names = stage_styles(runs), stage_names(runs)
    drawn: dict[str, list[Line]] = {name: [] for name in ("All classes", *shown)}
    seen = set()
    highest = 0.0
    for run in runs:
        key = (run.variant, run.stage)
        style = styles[key] + (" faint" if key in seen else "")
        seen.add(key)
        curves, end = read_roc(run)
        highest = max(highest, end)
        for name in drawn:
            efpr, tpr = curves.get(name, ([], []))
            if len(efpr):
                drawn[name].append(roc_line(f"{names[key]}, seed {run.seed}", efpr, tpr, end, style))
    x, y = Axis("false positives / h", 0, highest or 100), Axis("events found", 0, 1)
    return {
        "roc_charts": [line_chart(name, lines, x, y) for name, lines in drawn.items()],
        "run_legend": [{"name": names[key], "style": style} for key, style in styles.items()],
    }


def read_roc(run: RunFolder) -> tuple[dict[str, tuple[list[float], list[float]]], float]:
    """``roc.json`` as class → (effective false positives per hour, true positive rate), and where the curves end."""
    roc = run.read("roc.json")
    curves = {"All classes": roc["overall"], **roc["per_class"]}
    return {name: (curve["efpr"], curve["tpr"]) for name, curve in curves.items()}, float(roc["max_efpr"])


def class_section(runs: Sequence[RunFolder], shown: Sequence[str]) -> dict:
    """Metrics of each class, a bar per stage: mean over seeds of the chosen network, after post-processing."""
    styles, names = stage_styles(runs), stage_names(runs)
    charts = []
    for metric in CLASS_METRICS:
        by_stage: dict[tuple[str, str], list[dict[str, float]]] = {}
        for run in runs:
            metrics = run.read("metrics.json")
            block = metrics[metrics["chosen"]]["postprocessed"]
            per_class = block.get(f"{metric}_per_class", block.get(metric))
            if isinstance(per_class, dict):
                by_stage.setdefault((run.variant, run.stage), []).append(per_class)
        rows = [
            {
                "name": label,
                "bars": [
                    bar(names[key], float(np.mean([seed.get(label, np.nan) for seed in seeds])), styles[key])
                    for key, seeds in by_stage.items()
                ],
            }
            for label in shown
        ]
        charts.append({"title": f"{HEADLINES[metric][1]}, class by class", "rows": rows})
    legend = [{"name": names[key], "style": style} for key, style in styles.items()]
    return {"class_charts": charts, "stage_legend": legend}


def mistakes_section(study: Study, clips: Sequence[Clip], root: Path, shown: Sequence[str]) -> dict:
    """Found events by length, overlap, loudness and class; what sounded during detections."""
    judgements = list(study.judgements.values())
    levels = count_by_snr(study.judgements, snrs_of([clip for clip in clips if clip.source == SPLIT], root))
    breakdowns = {
        "by length": count_by_duration(judgements),
        "by overlap with other classes": count_by_overlap(judgements),
        "by signal-to-noise ratio": levels,
    }
    counts = confusion(judgements, study.classes)
    rows = [study.classes.index(label) for label in shown]
    totals = {kind: sum(len(getattr(j, kind)) for j in judgements) for kind in ("found", "missed", "right", "wrong")}
    return {
        "breakdowns": [_breakdown(name, bins) for name, bins in breakdowns.items() if bins],
        "has_snr": bool(levels),
        "confusion_chart": heatmap(
            "Detections of each class", shown, [*shown, NOTHING], counts[np.ix_(rows, [*rows, -1])]
        ),
        "counts": f"{totals['found']} of {totals['found'] + totals['missed']} events were found; "
        f"{totals['wrong']} of {totals['right'] + totals['wrong']} detections were false.",
    }


def _breakdown(name: str, bins: Sequence[Bin]) -> dict:
    rows = [
        {
            "name": b.name,
            "bars": [
                {"name": "found", "style": "s3", "percent": 100 * b.found / b.total, "text": f"{b.found} of {b.total}"}
            ],
        }
        for b in bins
    ]
    return {"title": f"Events found, {name}", "rows": rows}


def calibration_section(raw: Mapping[str, Scores], study: Study, shown: Sequence[str]) -> dict:
    """Reliability diagrams of all classes together and of each; empty when scores are no probabilities."""
    parts = {label: calibrate(raw, study.truth, label) for label in shown}
    if not parts or any(part is None for part in parts.values()):
        return {"calibration_charts": []}
    pooled = pool_calibrations(list(parts.values()))
    x, y = Axis("score", 0, 1), Axis("share that sounds", 0, 1)
    charts = []
    for name, part in {"All classes": pooled, **parts}.items():
        filled = part.frames > 0
        line = Line("reliability", part.mean_score[filled], part.share_active[filled], "s1")
        dots = [
            Line(f"{n:,} frames", [a], [b], "s1 dots")
            for a, b, n in zip(part.mean_score[filled], part.share_active[filled], part.frames[filled], strict=True)
        ]
        charts.append(line_chart(f"{name} (error {part.error:.3f})", [line, *dots], x, y, diagonal=True))
    return {"calibration_charts": charts, "calibration_error": f"{pooled.error:.3f}"}


def threshold_section(study: Study) -> dict:
    """Precision, recall and F1 over thresholds, for the chart, the table and the slider."""
    low, high = study.score_range
    thresholds = np.linspace(low, high, THRESHOLDS + 2)[1:-1]
    points = operating_points(study.scores, study.truth, thresholds)
    ratios = {label: [precision_recall_f1(*map(int, row)) for row in counts] for label, counts in points.items()}
    averages = _mean_over_classes(np.array(list(ratios.values()), dtype=float).reshape(-1, len(thresholds), 3))
    names = (("Precision", "s2"), ("Recall", "s3"), ("F1", "s1"))
    lines = [Line(name, thresholds, averages[:, k], style) for k, (name, style) in enumerate(names)]
    tuned = _tuned_points(study)
    rows = [{"label": label, "tuned": tuned[label], "tuned_json": json.dumps(tuned[label])} for label in ratios]
    by_threshold = [
        {label: _rounded(of_label[k]) for label, of_label in ratios.items()} for k in range(len(thresholds))
    ]
    chart = line_chart("Average over classes", lines, Axis("threshold", low, high), Axis("", 0, 1))
    return {
        "thresholds": thresholds,
        "score_low": low,
        "score_high": high,
        "operating_chart": chart,
        "operating_legend": [{"name": name, "style": style} for name, style in names],
        "operating_rows": rows,
        "operating_json": json.dumps({"thresholds": [round(float(t), 4) for t in thresholds], "points": by_threshold}),
    }


def _mean_over_classes(ratios: np.ndarray) -> np.ndarray:
    """(classes, thresholds, 3) → (thresholds, 3); NaN where no class has the number."""
    known = np.isfinite(ratios).sum(axis=0)
    return np.where(known > 0, np.nansum(ratios, axis=0) / np.maximum(known, 1), np.nan)


def _rounded(ratios: Sequence[float | None]) -> list[float | None]:
    return [None if ratio is None else round(ratio, 4) for ratio in ratios]


def _tuned_points(study: Study) -> dict[str, list[float | None]]:
    counts: Counter = Counter()
    for judgement in study.judgements.values():
        for kind in ("found", "missed", "wrong"):
            counts.update((event.label, kind) for event in getattr(judgement, kind))
    return {
        label: _rounded(precision_recall_f1(*(counts[label, kind] for kind in ("found", "missed", "wrong"))))
        for label in study.classes
    }


def clip_section(study: Study, clips: Sequence[Clip], root: Path) -> dict:
    """Cards of the worst and the best clips."""
    files = {clip.id: clip for clip in clips if clip.source == SPLIT}
    best, worst = best_and_worst(study, CLIPS_EACH)
    return {
        "best": [clip_card(study, clip, files, root) for clip in best],
        "worst": [clip_card(study, clip, files, root) for clip in worst],
    }
