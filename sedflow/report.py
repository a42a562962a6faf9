"""One self-contained HTML page per system: how good, compared with what, where wrong, and what it came from."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import sedflow
from sedflow.events import read_clips, write_table
from sedflow.html_page import render, write_text
from sedflow.report_findings import (
    SPLIT,
    calibration_section,
    class_section,
    clip_section,
    frequent_classes,
    mistakes_section,
    read_roc,
    roc_section,
    stage_names,
    study_run,
    threshold_section,
)
from sedflow.report_origins import cost_section, data_section, learning_section, provenance_section
from sedflow.runs import (
    HEADLINES,
    Result,
    RunError,
    RunFolder,
    in_order,
    mean_sd,
    results,
    scalar,
    spread,
    stage_order,
    summarise,
)

__all__ = ["RunFolder", "print_summary", "write_report"]

TILES = ("psds1", "psds2", "collar_f1_at_0.5", "intersection_f1_at_0.5")
SECTIONS = (
    ("results", "Results"),
    ("roc", "PSD-ROC"),
    ("classes", "Classes"),
    ("mistakes", "Mistakes"),
    ("calibration", "Calibration"),
    ("thresholds", "Thresholds"),
    ("clips", "Clips"),
    ("learning", "Learning"),
    ("data", "Data"),
    ("cost", "Cost"),
    ("provenance", "Provenance"),
)


def write_report(out: Path, page: dict, runs: list[RunFolder], manifests: Path, benchmarks: Path, root: Path) -> None:
    """Write the page of a system and the small files DVC compares.

    Parameters
    ----------
    out : Path    folder ``models/<system>/report``: index.html, metrics.json, roc.tsv, curves.tsv
    page : dict    the system's settings, with title, published and stages
    runs : list of RunFolder    every finished run: variants, stages and seeds
    manifests : Path    ``data/manifests/<corpus>``
    benchmarks : Path    Snakemake's benchmark files, ``<rule>/….tsv``
    root : Path    the paths of the clip table start here; clips without audio are shown without picture and player

    Raises
    ------
    RunError    no runs, or a run lacks a file
    """
    if not runs:
        raise RunError(f"{out}: nothing to report; train the system first with `snakemake {Path(out).parent.name}`")
    out.mkdir(parents=True, exist_ok=True)
    runs = in_order(runs, stage_order(page))
    collected = results(runs)
    published = dict(page.get("published") or {})
    write_text(out / "metrics.json", json.dumps(summarise(collected, published), indent=2, sort_keys=True) + "\n")
    _write_roc(out / "roc.tsv", runs)
    _write_curves(out / "curves.tsv", runs)

    clips = read_clips(Path(manifests) / "clips.tsv")
    shown_run = _shown_run(runs)
    study, raw = study_run(shown_run, manifests)
    shown = frequent_classes(study)
    context = {
        **_head(page, runs, shown_run, out, study),
        **results_section(collected, runs, published),
        **roc_section(runs, shown),
        "classes_left_out": len({e.label for events in study.truth.values() for e in events}) - len(shown),
        **class_section(runs, shown),
        **mistakes_section(study, clips, root, shown),
        **calibration_section(raw, study, shown),
        **threshold_section(study),
        **clip_section(study, clips, root),
        **learning_section(runs),
        **data_section(manifests, clips, study.classes),
        **cost_section(benchmarks, _names(page, out, manifests), stage_order(page)),
        **provenance_section(runs, shown_run, manifests, clips, page),
    }
    write_text(out / "index.html", render("report_page.html", context))


def _shown_run(runs: Sequence[RunFolder]) -> RunFolder:
    """The run whose mistakes and clips are drawn: first variant, last stage, first seed, whatever its score."""
    variant = runs[0].variant
    last = [run for run in runs if run.variant == variant][-1].stage
    return next(run for run in runs if (run.variant, run.stage) == (variant, last))


def _head(page: dict, runs: Sequence[RunFolder], shown_run: RunFolder, out: Path, study) -> dict:
    corpora = [spec["name"] for spec in page.get("corpora", [])]
    hours = sum(scores.seconds for scores in study.scores.values()) / 3600
    network = shown_run.read("postprocess.json")["chosen"]
    return {
        "system": Path(out).parent.name,
        "title": page.get("title", Path(out).parent.name),
        "corpora": corpora,
        "is_demo": "demo" in corpora,
        "stages": dict.fromkeys((run.variant, run.stage) for run in runs),
        "seeds": sorted({run.seed for run in runs}),
        "split": SPLIT,
        "judged": f"{len(study.truth):,} {SPLIT} clips ({hours:.2f} h)",
        "shown": f"Shown here and below: {shown_run.stage}, seed {shown_run.seed}, {network}, on the {SPLIT} clips",
        "sections": SECTIONS,
        "version": sedflow.__version__,
    }


def _names(page: dict, out: Path, manifests: Path) -> set[str]:
    """What this system's jobs are called after, among the benchmarks of all systems: itself, corpora, weights."""
    weights = {encoder.get("weights") for encoder in page.get("detector", {}).get("encoders", [])}
    return {Path(out).parent.name, Path(manifests).name, *weights} - {None}


def results_section(collected: Sequence[Result], runs: Sequence[RunFolder], published: dict[str, float]) -> dict:
    """Tiles of the last stage against the published row, the table of all stages, every seed."""
    variant = runs[0].variant
    last = [r for r in collected if r.network == "chosen" and r.variant == variant][-1]
    names = stage_names(runs)
    columns = [name for name in HEADLINES if any(name in result.final for result in collected)]
    rows = []
    for (variant, stage), name in names.items():
        choices = {run.read("metrics.json")["chosen"] for run in runs if (run.variant, run.stage) == (variant, stage)}
        rows.append({"name": name, "note": "", "kind": "stage", "cells": [{"final": "", "raw": ""}] * len(columns)})
        # where every seed chose the same network its row says so, and a row "chosen" would only repeat it
        members = [r for r in collected if (r.variant, r.stage) == (variant, stage)]
        rows += [_table_row(r, columns, choices) for r in members if r.network != "chosen" or len(choices) > 1]
    if published:
        cells = [{"final": f"{published[name]:.3f}" if name in published else "–", "raw": ""} for name in columns]
        rows.append({"name": "Published", "note": "", "kind": "published", "cells": cells})
    specs = [run.read("postprocess.json") for run in runs]
    tuned = [spec[spec["chosen"]] for spec in specs]
    return {
        "tiles": [_tile(name, last.final[name], published.get(name)) for name in TILES if name in last.final],
        "table": {"columns": [HEADLINES[name][1] for name in columns], "rows": rows},
        "per_seed": _seed_rows(runs, columns),
        "tuned_on": " and ".join(sorted({spec["tuned_on"] for spec in tuned if "tuned_on" in spec}) or ["validation"]),
        "objectives": " and ".join(sorted({spec["objective"] for spec in tuned if "objective" in spec})),
        "several_seeds": max(len(result.seeds) for result in collected) > 1,
    }


def _tile(name: str, values: Sequence[float], published: float | None) -> dict:
    mean, sd = mean_sd(values)
    return {
        "name": HEADLINES[name][1],
        "mean": f"{mean:.3f}",
        "sd": None if math.isnan(sd) else f"{sd:.3f}",
        "percent": round(100 * min(max(mean, 0), 1), 1),
        "published": None if published is None else f"{published:.3f}",
        "published_percent": None if published is None else round(100 * published, 1),
        "difference": None if published is None else f"{mean - published:+.3f}",
    }


def _table_row(result: Result, columns: Sequence[str], choices: set[str]) -> dict:
    cells = []
    for name in columns:
        raw = spread(result.raw[name]) if name in result.raw else ""
        final = spread(result.final[name]) if name in result.final else "–"
        cells.append({"final": final, "raw": "" if raw == final else raw})
    best = choices == {result.network} or result.network == "chosen"
    name = "chosen, seed by seed" if result.network == "chosen" else result.network
    return {
        "name": name,
        "note": "chosen" if choices == {result.network} else "",
        "kind": "best" * best,
        "cells": cells,
    }


def _seed_rows(runs: Sequence[RunFolder], columns: Sequence[str]) -> list[dict]:
    names = stage_names(runs)
    rows = []
    for run in runs:
        metrics = run.read("metrics.json")
        network = metrics["chosen"]
        values = [scalar(metrics[network]["postprocessed"], name) for name in columns]
        cells = ["–" if math.isnan(value) else f"{value:.3f}" for value in values]
        rows.append({"run": f"{names[run.variant, run.stage]}, seed {run.seed}", "network": network, "cells": cells})
    return rows


def _write_roc(path: Path, runs: Sequence[RunFolder]) -> None:
    names = stage_names(runs)
    rows = []
    for run in runs:
        for label, (efpr, tpr) in read_roc(run)[0].items():
            points = zip(efpr, tpr, strict=True)
            rows += [(names[run.variant, run.stage], run.seed, label, f"{x:.6g}", f"{y:.6g}") for x, y in points]
    write_table(path, ("stage", "seed", "class", "x", "y"), rows)


def _write_curves(path: Path, runs: Sequence[RunFolder]) -> None:
    names = stage_names(runs)
    rows = []
    for run in runs:
        for quantity, (steps, values) in run.curves().items():
            points = zip(steps, values, strict=True)
            rows += [(names[run.variant, run.stage], run.seed, quantity, f"{s:.10g}", f"{v:.6g}") for s, v in points]
    write_table(path, ("stage", "seed", "quantity", "step", "value"), rows)


def print_summary(path: Path) -> None:
    """Print a system's metrics.json as a table, with the published row and the path of the page."""
    from rich.console import Console
    from rich.table import Table

    summary = json.loads(Path(path).read_text(encoding="utf-8"))
    order, published = summary.pop("order"), summary.pop("published", {})
    shown = ("psds1", "psds2", "collar_f1_at_0.5")
    table = Table(title=f"{Path(path).parent.parent.name}: test clips, mean over seeds")
    for name in ("Stage", "Network", *(HEADLINES[name][1] for name in shown)):
        table.add_column(name, justify="left" if name in ("Stage", "Network") else "right", no_wrap=True)
    for stage in sorted(summary, key=order.get):
        for network in ("student", "teacher", "chosen"):
            if network in summary[stage]:
                cells = [_number(summary[stage][network], name) for name in shown]
                table.add_row(stage, network, *cells, end_section=network == "chosen")
    if published:
        table.add_row("published", "", *(_number(published, name) for name in shown))
    console = Console()
    console.print(table)
    console.print(f"Report: {Path(path).parent / 'index.html'}", soft_wrap=True)


def _number(numbers: dict[str, float], name: str) -> str:
    if name not in numbers:
        return "–"
    sd = numbers.get(f"{name}_sd")
    return f"{numbers[name]:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")
