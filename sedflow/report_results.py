"""The report's headline: what was reached, how sure that is, against the published row, other stages and corpora."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sedflow import bootstrap, judge
from sedflow.comparison import cell_lines, chosen_scores, compare, describe_classes, stars
from sedflow.events import read_clips
from sedflow.report_findings import SPLIT, stage_names
from sedflow.runs import HEADLINES, Result, RunFolder, mean_sd, plus_minus, results, scalar, shown

TILES = ("psds1", "psds2", "collar_f1_at_0.5", "intersection_f1_at_0.5")


def results_section(
    runs: Sequence[RunFolder], published: Mapping[str, float], folder: Path, draws: int, headlines: Sequence[str] = ()
) -> dict:
    """Tiles of the last stage against the published row, the table of all stages, every seed, differences, corpora.

    Parameters
    ----------
    folder : Path    ``data/manifests/<corpus>`` that the headline is measured on
    draws : int    of the bootstrap
    headlines : sequence of str    metrics that the page wants first
    """
    collected = results(runs)
    last = last_result(runs, collected)
    names = stage_names(runs)
    columns = shown(collected, headlines)
    tiles = list(dict.fromkeys((*headlines, *TILES)))[: len(TILES)]
    rows = stage_rows(collected, runs, columns)
    if published:
        cells = [{"final": f"{published[name]:.3f}" if name in published else "–", "raw": ""} for name in columns]
        rows.append({"name": "Published", "note": "", "kind": "published", "cells": cells})
    specs = [run.read("postprocess.json") for run in runs]
    tuned = [spec[spec["chosen"]] for spec in specs]
    compared, drawn = compare_stages(runs, last, folder, draws)
    intervals = compared[0]["intervals"]
    return {
        "tiles": [_tile(n, last.final[n], published.get(n), intervals.get(n)) for n in tiles if n in last.final],
        "headline": names[last.variant, last.stage],
        "covered": describe_classes(compared[0], SPLIT),
        "drawn": f"{draws} bootstrap draws of {drawn}",
        "differences": _differences(compared[1:]),
        "other_corpora": _other_corpora(runs, last, columns),
        "table": {"columns": [HEADLINES[name][1] for name in columns], "rows": rows},
        "per_seed": _seed_rows(runs, columns),
        "tuned_on": " and ".join(sorted({spec["tuned_on"] for spec in tuned if "tuned_on" in spec}) or ["validation"]),
        "objectives": " and ".join(sorted({spec["objective"] for spec in tuned if "objective" in spec})),
        "several_seeds": max(len(result.seeds) for result in collected) > 1,
    }


def last_result(runs: Sequence[RunFolder], collected: Sequence[Result]) -> Result:
    """The headline: the first variant's last stage, the network chosen on validation."""
    return [r for r in collected if r.network == "chosen" and r.variant == runs[0].variant][-1]


def stage_rows(collected: Sequence[Result], runs: Sequence[RunFolder], columns: Sequence[str]) -> list[dict]:
    """Rows of the table: a heading per variant and stage, then its networks."""
    rows = []
    for (variant, stage), name in stage_names(runs).items():
        choices = {run.read("metrics.json")["chosen"] for run in runs if (run.variant, run.stage) == (variant, stage)}
        rows.append({"name": name, "note": "", "kind": "stage", "cells": [{"final": "", "raw": ""}] * len(columns)})
        # where every seed chose the same network its row says so, and a row "chosen" would only repeat it
        members = [r for r in collected if (r.variant, r.stage) == (variant, stage)]
        rows += [_table_row(r, columns, choices) for r in members if r.network != "chosen" or len(choices) > 1]
    return rows


def compare_stages(runs: Sequence[RunFolder], last: Result, folder: Path, draws: int) -> tuple[list[dict], str]:
    """The headline stage first, then the other variants and stages on the same draws; and what was drawn."""
    names = stage_names(runs)
    keys = sorted(names, key=lambda key: key != (last.variant, last.stage))
    known = bootstrap.recordings_of(read_clips(Path(folder) / "clips.tsv"))
    sets = {names[key]: [_scores(run, folder) for run in runs if (run.variant, run.stage) == key] for key in keys}
    _, truth, durations = sets[names[keys[0]]][0]
    scores = {name: [own for own, _, _ in seeds] for name, seeds in sets.items()}
    compared = compare(scores, truth, durations, judge.HEADLINE_RULES, samples=draws, recordings=known)
    return compared, bootstrap.describe_draws(tuple(durations), known)


def _scores(run: RunFolder, folder: Path):
    return judge.of_corpus(folder, SPLIT, chosen_scores(run, SPLIT)[1])


def _differences(compared: Sequence[Mapping]) -> dict:
    """What every other stage reaches more or less than the headline's, with p."""
    shown = [name for name in TILES if all(name in row["against_first"] for row in compared)]
    rows = [{"name": row["system"], "cells": [_difference(row, name) for name in shown]} for row in compared]
    return {"columns": [HEADLINES[name][1] for name in shown], "rows": rows}


def _difference(row: Mapping, name: str) -> dict:
    *_, difference, p = cell_lines(row, name)
    return {"difference": difference, "p": p, "significant": bool(stars(row["against_first"][name]["p"]))}


def _other_corpora(runs: Sequence[RunFolder], last: Result, columns: Sequence[str]) -> list[dict]:
    """Numbers of every corpus on its own, where there are several."""
    blocks = []
    for run in runs:
        if (run.variant, run.stage) == (last.variant, last.stage):
            metrics = run.read("metrics.json")
            blocks.append(metrics[metrics["chosen"]]["postprocessed"].get("corpora", {}))
    rows = []
    for corpus in blocks[0]:
        values = {name: [scalar(block[corpus], name) for block in blocks] for name in columns}
        rows.append({"name": corpus, "cells": [plus_minus(values[name]) for name in columns]})
    return rows


def _tile(name: str, values: Sequence[float], published: float | None, interval: Sequence[float] | None) -> dict:
    mean, sd = mean_sd(values)
    known = interval is not None and all(map(math.isfinite, interval))
    low, high = (round(100 * min(max(bound, 0), 1), 1) for bound in (interval if known else (0, 0)))
    outside = known and published is not None and not interval[0] <= published <= interval[1]
    return {
        "name": HEADLINES[name][1],
        "mean": f"{mean:.3f}",
        "sd": None if math.isnan(sd) else f"{sd:.3f}",
        "percent": round(100 * min(max(mean, 0), 1), 1),
        "interval": f"{interval[0]:.3f} – {interval[1]:.3f}" if known else None,
        "low": low,
        "width": round(high - low, 1),
        "published": None if published is None else f"{published:.3f}",
        "published_percent": None if published is None else round(100 * published, 1),
        "difference": None if published is None else f"{mean - published:+.3f}",
        "outside": outside,
    }


def _table_row(result: Result, columns: Sequence[str], choices: set[str]) -> dict:
    cells = []
    for name in columns:
        raw = plus_minus(result.raw[name]) if name in result.raw else ""
        final = plus_minus(result.final[name]) if name in result.final else "–"
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
