"""Finished training runs on disk, and their numbers over seeds."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

NETWORKS = ("student", "teacher")
# name in metrics.json → (part of it that is one number, short name)
HEADLINES = {
    "psds1": (None, "PSDS1"),
    "psds2": (None, "PSDS2"),
    "psds1_macro": (None, "PSDS1 without variance penalty"),
    "collar_f1_at_0.5": ("macro_average", "Collar F1 at 0.5"),
    "intersection_f1_at_0.5": ("macro_average", "Intersection F1 at 0.5"),
    "segment_mpauc_max_fpr_0.1": ("mean", "Segment mpAUC"),
    "onset_f1_at_0.5": ("micro_average", "Onset F1 at 0.5, classes pooled"),
    "segment_error_rate_at_0.5": ("error_rate", "Segment error rate at 0.5"),
}
ON_DEMAND = ("onset_f1_at_0.5", "segment_error_rate_at_0.5")  # shown by systems whose page has them in `headlines`


class RunError(ValueError):
    """A run's folder cannot be reported; the message names the file and the cure."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """``models/<system>/<variant>/<stage>/seed<k>/``: one finished training run."""

    path: Path

    @property
    def seed(self) -> int:
        """Seed of the run, from the folder's name."""
        digits = Path(self.path).name.removeprefix("seed")
        if not digits.isdigit():
            raise RunError(f"{self.path}: not a run; expected models/<system>/<variant>/<stage>/seed<k>")
        return int(digits)

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return Path(self.path).parent.name

    @property
    def variant(self) -> str:
        """Name of the variant."""
        return Path(self.path).parent.parent.name

    def file(self, name: str) -> Path:
        """A file of the run; ``RunError`` if it is missing."""
        path = Path(self.path) / name
        if not path.is_file():
            raise RunError(f"{path}: missing; make it with `snakemake {path}`")
        return path

    def read(self, name: str) -> dict:
        """One of the run's JSON files."""
        try:
            return json.loads(self.file(name).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise RunError(f"{self.path}/{name}: not valid JSON ({error}); delete the file and run snakemake") from None

    def curves(self) -> dict[str, tuple[list[float], list[float]]]:
        """Learning curves of ``log.csv``: quantity → (steps, values); empty cells are left out."""
        curves: dict[str, tuple[list[float], list[float]]] = {}
        with open(self.file("log.csv"), newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for quantity, cell in row.items():
                    if quantity not in (None, "", "step", "epoch") and cell:
                        steps, values = curves.setdefault(quantity, ([], []))
                        steps.append(float(row["step"]))
                        values.append(float(cell))
        return curves


@dataclasses.dataclass(frozen=True)
class Result:
    """One network of one stage: its metrics, each over all seeds.

    ``network`` is "student", "teacher" or "chosen" (the one that was better on validation, seed by seed); ``raw`` and
    ``final`` map metric → values, one per seed, before and after post-processing.
    """

    variant: str
    stage: str
    network: str
    seeds: tuple[int, ...]
    raw: dict[str, list[float]]
    final: dict[str, list[float]]


def shown(collected: Iterable[Result], headlines: Sequence[str] = ()) -> list[str]:
    """Names of the metrics that a table of results shows: those of the page first."""
    there = {name for result in collected for name in result.final}
    return [
        name for name in dict.fromkeys((*headlines, *(n for n in HEADLINES if n not in ON_DEMAND))) if name in there
    ]


def scalar(metrics: dict, name: str) -> float:
    """One number of a metrics block: the average over classes where there is one per class; NaN if absent."""
    value = metrics.get(name, math.nan)
    value = value.get(HEADLINES[name][0], math.nan) if isinstance(value, dict) else value
    return math.nan if value is None else float(value)


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n − 1); the deviation of a single value is NaN."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan


def plus_minus(values: Sequence[float]) -> str:
    """Mean ± sd as text: ``0.512 ± 0.013``, without the sd for a single seed, – for no number."""
    mean, sd = mean_sd(values)
    if math.isnan(mean):
        return "–"
    return f"{mean:.3f}" + ("" if math.isnan(sd) else f" ± {sd:.3f}")


def stage_order(page: Mapping) -> list[str]:
    """Names of a page's stages, each after the one it starts from: JSON with sorted keys has lost their order."""
    stages = page.get("stages", {})

    def depth(name: str) -> int:
        start = stages[name].get("start_from") if name in stages else None
        return 1 + depth(start) if start else 0

    return sorted(stages, key=depth)


def in_order(runs: Iterable[RunFolder], stages: Sequence[str]) -> list[RunFolder]:
    """Runs by variant (``default`` first), stage as on the system's page, and seed."""
    place = {stage: k for k, stage in enumerate(stages)}

    def key(run):
        return run.variant != "default", run.variant, place.get(run.stage, len(place)), run.stage, run.seed

    return sorted(runs, key=key)


def results(runs: Sequence[RunFolder]) -> list[Result]:
    """Metrics by variant, stage and network, in the order of the runs."""
    groups: dict[tuple[str, str], list[RunFolder]] = {}
    for run in runs:
        groups.setdefault((run.variant, run.stage), []).append(run)
    collected = []
    for (variant, stage), members in groups.items():
        metrics = [run.read("metrics.json") for run in members]
        seeds = tuple(run.seed for run in members)
        for network in (*NETWORKS, "chosen"):
            blocks = [of_seed.get(of_seed["chosen"] if network == "chosen" else network) for of_seed in metrics]
            if all(blocks):
                raw, final = (_over_seeds([block[kind] for block in blocks]) for kind in ("raw", "postprocessed"))
                collected.append(Result(variant, stage, network, seeds, raw, final))
    return collected


def _over_seeds(blocks: Sequence[dict]) -> dict[str, list[float]]:
    values = {name: [scalar(block, name) for block in blocks] for name in HEADLINES}
    return {name: of_name for name, of_name in values.items() if not all(map(math.isnan, of_name))}


def summarise(collected: Sequence[Result], published: dict[str, float]) -> dict:
    """The small, flat dictionary that ``dvc metrics diff`` compares: stage → network → metric → mean over seeds.

    With more than one variant the stage is written ``<variant>/<stage>``; ``order`` numbers the stages.
    """
    several = len({result.variant for result in collected}) > 1
    summary: dict = {"order": {}, **({"published": published} if published else {})}
    for result in collected:
        stage = f"{result.variant}/{result.stage}" if several else result.stage
        summary["order"].setdefault(stage, len(summary["order"]) + 1)
        numbers: dict = {"seeds": len(result.seeds)}
        for name, values in result.final.items():
            mean, sd = mean_sd(values)
            numbers[name] = round(mean, 6)
            if not math.isnan(sd):
                numbers[f"{name}_sd"] = round(sd, 6)
        summary.setdefault(stage, {})[result.network] = numbers
    return summary
