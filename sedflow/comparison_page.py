"""One self-contained HTML page that compares systems: numbers with significance, classes, curves over each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import sedflow
from sedflow.comparison import Contender, ScoreSet, cell_lines, stars
from sedflow.evaluation import psd_roc
from sedflow.events import Event
from sedflow.figures import (
    GREY,
    MOST_CLASSES,
    STYLES,
    Axis,
    Line,
    bar,
    interval_chart,
    learning_charts,
    line_chart,
    roc_line,
    styles_of,
)
from sedflow.files import sha256, write_text
from sedflow.html_page import render
from sedflow.runs import RunError

MAIN = ("psds1", "psds2", "collar_f1_at_0.5", "intersection_f1_at_0.5")
SECTIONS = (
    ("numbers", "Numbers"),
    ("roc", "PSD-ROC"),
    ("classes", "Classes"),
    ("learning", "Learning"),
    ("settings", "Settings"),
    ("provenance", "Provenance"),
)


def write_comparison_page(
    out: Path,
    systems: Sequence[Contender],
    scores: Mapping[str, Sequence[ScoreSet]],
    truth: Mapping[str, Iterable[Event]],
    durations: Mapping[str, float],
    rows: Sequence[Mapping],
    judged_on: str,
) -> None:
    """Write the page.

    Parameters
    ----------
    scores : mapping name → scores of each seed
    rows : sequence    what ``comparison.compare`` gave
    judged_on : str    what the clips are, and what was drawn
    """
    styles = styles_of([system.name for system in systems], (*STYLES, GREY))
    hours = sum(durations.values()) / 3600
    context = {
        "title": " · ".join(styles),
        "systems": list(styles),
        "judged": f"{len(durations):,} clips ({hours:.2f} h), {judged_on}",
        "legend": [{"name": name, "style": style} for name, style in styles.items()],
        "table": _table(rows),
        "interval_charts": _interval_charts(rows, styles),
        **_roc_charts(scores, truth, durations, styles),
        "class_charts": _class_charts(rows, styles),
        "learning_charts": _learning_charts(systems, styles),
        "settings": settings_that_differ(systems),
        "files": [(system.name, str(file), sha256(file)) for system in systems for file in _files(system)],
        "sections": SECTIONS,
        "version": sedflow.__version__,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, render("comparison_page.html", context))


def _table(rows: Sequence[Mapping]) -> dict:
    shown = [name for name in rows[0]["metrics"] if all(name in row["metrics"] for row in rows)]
    lines = [{"name": name, "cells": [_cell(row, name) for row in rows]} for name in shown]
    return {
        "columns": [f"{row['system']} ({row['seeds']} seed{'s' * (row['seeds'] > 1)})" for row in rows],
        "rows": lines,
    }


def _cell(row: Mapping, name: str) -> dict:
    value, interval, *against = cell_lines(row, name)
    p = row.get("against_first", {}).get(name, {}).get("p", 1.0)
    return {"value": value, "interval": interval, "against": against, "significant": bool(stars(p))}


def _interval_charts(rows: Sequence[Mapping], styles: Mapping[str, str]) -> list[dict]:
    """Each main metric with its interval, then the differences to the first system."""
    charts = []
    for name in MAIN:
        known = [row for row in rows if name in row["intervals"]]
        ranges = [(r["system"], r["metrics"][name], r["intervals"][name]) for r in known]
        charts.append(interval_chart(name, [(*r, f"{r[1]:.3f}", styles[r[0]]) for r in ranges]))
        tests = [(row["system"], row.get("against_first", {}).get(name, {})) for row in known]
        differences = [
            (system, test["difference"], (test["low"], test["high"]), _difference(test), styles[system])
            for system, test in tests
            if "low" in test
        ]
        charts.append(interval_chart(f"{name}, more than {rows[0]['system']}", differences, zero=True))
    return [chart for chart in charts if chart["rows"]]


def _difference(test: Mapping) -> str:
    return f"{test['difference']:+.3f} {stars(test['p'])}".rstrip()


def _roc_charts(scores, truth, durations, styles) -> dict:
    """PSD-ROC of every seed of every system over each other: all classes, then one by one."""
    drawn: dict[str, list[Line]] = {"All classes": []}
    x = Axis("false positives / h", 0, 100)
    for name, seeds in scores.items():
        for k, of_seed in enumerate(seeds):
            roc = psd_roc(of_seed, truth, durations)
            style = styles[name] + " faint" * (k > 0)
            for label, curve in {"All classes": roc["overall"], **roc["per_class"]}.items():
                line = roc_line(name, curve["efpr"], curve["tpr"], roc["max_efpr"], style)
                drawn.setdefault(label, []).append(line)
    kept = list(drawn)[: MOST_CLASSES + 1]
    charts = [line_chart(label, drawn[label], x, Axis("events found", 0, 1)) for label in kept]
    return {"roc_charts": charts, "classes_left_out": len(drawn) - len(kept)}


def _class_charts(rows: Sequence[Mapping], styles: Mapping[str, str]) -> list[dict]:
    charts = []
    for name in ("psds1", "psds2", "collar_f1_at_0.5"):
        tables = {row["system"]: row["per_class"].get(name, {}) for row in rows}
        labels = list(next(iter(tables.values())))[:MOST_CLASSES]
        bars = [
            {
                "name": label,
                "bars": [bar(system, of.get(label, math.nan), styles[system]) for system, of in tables.items()],
            }
            for label in labels
        ]
        charts.append({"title": f"{name}, class by class", "rows": bars})
    return charts


def _learning_charts(systems: Sequence[Contender], styles: Mapping[str, str]) -> list[dict]:
    """A chart per quantity of the logs, all systems over each other."""
    quantities: dict[str, list[Line]] = {}
    for system in systems:
        for k, run in enumerate(system.runs):
            for quantity, (steps, values) in run.curves().items():
                style = styles[system.name] + " faint" * (k > 0) + " dots" * (len(steps) == 1)
                quantities.setdefault(quantity, []).append(
                    Line(f"{system.name}, seed {run.seed}", steps, values, style)
                )
    return learning_charts(quantities)


def settings_that_differ(systems: Sequence[Contender]) -> list[dict]:
    """Settings that are not the same for all systems: name and value of each system (– where there is none)."""
    flat = []
    for system in systems:
        try:
            flat.append(dict(_leaves(system.runs[0].read("settings.json"))) if system.runs else {})
        except RunError:
            flat.append({})
    names = sorted({name for of_system in flat for name in of_system})
    rows = [{"name": name, "values": [of_system.get(name, "–") for of_system in flat]} for name in names]
    return [row for row in rows if len(set(row["values"])) > 1]


def _leaves(settings, name: str = ""):
    if isinstance(settings, Mapping) and settings:
        for key, value in settings.items():
            yield from _leaves(value, f"{name}.{key}" if name else key)
    elif isinstance(settings, list) and settings:
        for number, value in enumerate(settings):
            known = isinstance(value, Mapping) and "name" in value
            yield from _leaves(value, f"{name}[{value['name'] if known else number}]")
    else:
        number = isinstance(settings, float) and math.isfinite(settings)
        yield name, f"{settings:g}" if number else str(settings)


def _files(system: Contender) -> list[Path]:
    """What the numbers of a system rest on."""
    found = []
    for path in system.paths:
        if path.is_file():
            found.append(path)
        elif (path / "best.safetensors").is_file():
            found.append(path / "best.safetensors")
    return found
