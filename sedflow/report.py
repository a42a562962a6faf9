"""One self-contained HTML page per system: how good, compared with what, where wrong, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import sedflow
from sedflow.clip_cards import Study
from sedflow.events import read_clips, write_table
from sedflow.files import write_text
from sedflow.html_page import render
from sedflow.judge import DRAWS, corpora_with
from sedflow.report_cost import cost_section
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
from sedflow.report_origins import data_section, learning_section, provenance_section
from sedflow.report_results import results_section
from sedflow.runs import HEADLINES, RunError, RunFolder, in_order, results, stage_order, summarise

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


def write_report(
    out: Path,
    page: dict,
    runs: list[RunFolder],
    manifests: Sequence[Path],
    benchmarks: Path,
    root: Path,
    draws: int = DRAWS,
) -> None:
    """Write the page of a system and the small files DVC compares.

    Parameters
    ----------
    out : Path    folder ``models/<system>/report``: index.html, metrics.json, roc.tsv, curves.tsv
    page : dict    the system's settings, with title, published and stages
    runs : list of RunFolder    every finished run: variants, stages and seeds
    manifests : sequence of Path    ``data/manifests/<corpus>``, one per corpus; the first with a test set is studied
    benchmarks : Path    Snakemake's benchmark files, ``<rule>/….tsv``
    root : Path    the paths of the clip table start here; clips without audio are shown without picture and player
    draws : int    of the bootstrap over recordings

    Raises
    ------
    RunError    no runs, or a run lacks a file
    """
    if not runs:
        raise RunError(f"{out}: nothing to report; train the system first with `snakemake {Path(out).parent.name}`")
    out.mkdir(parents=True, exist_ok=True)
    runs = in_order(runs, stage_order(page))
    published = dict(page.get("published") or {})
    write_text(out / "metrics.json", json.dumps(summarise(results(runs), published), indent=2, sort_keys=True) + "\n")
    _write_roc(out / "roc.tsv", runs)
    _write_curves(out / "curves.tsv", runs)

    clips = {Path(folder): read_clips(Path(folder) / "clips.tsv") for folder in manifests}
    judged_on = corpora_with(manifests, SPLIT)[0]
    shown_run = _shown_run(runs)
    study, raw = study_run(shown_run, judged_on)
    shown = frequent_classes(study)
    context = {
        **_head(page, runs, shown_run, out),
        "judged": _judged(study, judged_on, len(clips)),
        **results_section(runs, published, judged_on, draws, page.get("headlines", ())),
        **roc_section(runs, shown),
        "classes_left_out": len({e.label for events in study.truth.values() for e in events}) - len(shown),
        **class_section(runs, shown),
        **mistakes_section(study, clips[judged_on], root, shown),
        **calibration_section(raw, study, shown),
        **threshold_section(study),
        **clip_section(study, clips[judged_on], root),
        **learning_section(runs),
        **data_section(clips, study.classes),
        **cost_section(benchmarks, _names(page, clips), page, runs),
        **provenance_section(runs, shown_run, clips, page),
    }
    write_text(out / "index.html", render("report_page.html", context))


def _shown_run(runs: Sequence[RunFolder]) -> RunFolder:
    """The run whose mistakes and clips are drawn: first variant, last stage, first seed, whatever its score."""
    variant = runs[0].variant
    last = [run for run in runs if run.variant == variant][-1].stage
    return next(run for run in runs if (run.variant, run.stage) == (variant, last))


def _head(page: dict, runs: Sequence[RunFolder], shown_run: RunFolder, out: Path) -> dict:
    corpora = [spec["name"] for spec in page.get("corpora", [])]
    network = shown_run.read("postprocess.json")["chosen"]
    return {
        "system": Path(out).parent.name,
        "title": page.get("title", Path(out).parent.name),
        "corpora": corpora,
        "is_demo": "demo" in corpora,
        "stages": dict.fromkeys((run.variant, run.stage) for run in runs),
        "seeds": sorted({run.seed for run in runs}),
        "split": SPLIT,
        "shown": f"Shown here and below: {shown_run.stage}, seed {shown_run.seed}, {network}, on the {SPLIT} clips",
        "sections": SECTIONS,
        "version": sedflow.__version__,
    }


def _judged(study: Study, folder: Path, corpora: int) -> str:
    hours = sum(scores.seconds for scores in study.scores.values()) / 3600
    of = f" of {folder.name}" * (corpora > 1)
    return f"{len(study.truth):,} {SPLIT} clips{of} ({hours:.2f} h)"


def _names(page: dict, folders: Iterable[Path]) -> set[str]:
    """What jobs that make this system's data are called after: corpora, encoders, weights."""
    encoders = page.get("detector", {}).get("encoders", [])
    used = {encoder.get(key) for encoder in encoders for key in ("name", "weights")}
    return {*(folder.name for folder in folders), *used} - {None}


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

    if not Path(path).is_file():
        raise RunError(f"{path}: no such report; make it with `snakemake {Path(path).parent.parent.name}`")
    summary = json.loads(Path(path).read_text(encoding="utf-8"))
    order, published = summary.pop("order"), summary.pop("published", {})
    shown = list(dict.fromkeys((*(n for n in published if n in HEADLINES), "psds1", "psds2", "collar_f1_at_0.5")))
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
