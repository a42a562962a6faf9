"""Metrics on a terminal: all of them over all classes, then the main ones class by class."""

from __future__ import annotations

from collections.abc import Mapping

from sedflow.bootstrap import headlines
from sedflow.events import SUMMARIES

PRINTED_PER_CLASS = ("psds1", "psds2", "collar_best_f1", "intersection_f1_at_0.5", "clip_map")


def print_metrics(metrics: Mapping) -> None:
    """Print the result of ``judge_files.judge_files``."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    intervals = metrics.get("intervals", {})
    title = f"{metrics['clips']} clips, {metrics['hours']:.2f} h"
    if intervals:
        title += f"; middle 95 % of {intervals['draws']} draws of {intervals['drawn']}"
    overall = Table("metric", "all classes", "pooled", *(["95 %"] if intervals else []), title=title)
    numbers = headlines(metrics)
    for name, value in metrics.items():
        if name in ("clips", "hours", "classes_without_truth", "intervals") or name.endswith("_per_class"):
            continue
        number, pooled = numbers.get(name), value.get("micro_average") if isinstance(value, Mapping) else None
        spread = [_interval(intervals["metrics"].get(name))] if intervals else []
        overall.add_row(name, _number(number), "" if pooled is None else _number(pooled), *spread)
    console.print(overall, _by_class(metrics))
    if metrics["classes_without_truth"]:
        console.print(f"left out, no event in the truth: {', '.join(metrics['classes_without_truth'])}")


def _by_class(metrics: Mapping):
    from rich.table import Table

    per_class = {name.removesuffix("_per_class"): value for name, value in metrics.items() if isinstance(value, dict)}
    chosen = [name for name in PRINTED_PER_CLASS if name in per_class]
    labels = dict.fromkeys(label for name in chosen for label in per_class[name] if label not in SUMMARIES)
    table = Table("class", *(name.removesuffix("_at_0.5").replace("_", " ") for name in chosen))
    for label in labels:
        table.add_row(label, *(_number(per_class[name].get(label)) for name in chosen))
    return table


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _interval(interval) -> str:
    return "–" if not interval else f"{_number(interval[0])} – {_number(interval[1])}"
