"""Several systems on the same clips, side by side, with paired significance against the first.

A system is one run, several runs that differ in their seed, or a file of scores. Its numbers are means over its seeds,
and so is every bootstrap draw: intervals and p show how much depends on the recordings that happen to be in the set.
How much depends on the seed is shown separately, by the standard deviation. p is not corrected for many comparisons.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sedflow import postprocess
from sedflow.agreement import EvaluationError
from sedflow.bootstrap import against, draw, headlines, middle_of_draws
from sedflow.evaluation import Evaluation, Rules
from sedflow.events import SUMMARIES, Event
from sedflow.groups import independent
from sedflow.judge import corpora_with
from sedflow.runs import RunFolder, mean_sd
from sedflow.scores import Scores, load_scores

COLUMNS = ("psds1", "psds2", "psds1_macro", "collar_f1_at_0.5", "intersection_f1_at_0.5", "segment_mpauc_max_fpr_0.1")

MOST_NAMED = 10  # classes

ScoreSet = Mapping[str, Scores]


@dataclasses.dataclass(frozen=True)
class Contender:
    """What is compared: the runs of one system, one per seed, or a single file or folder of scores."""

    name: str
    paths: tuple[Path, ...]

    @property
    def runs(self) -> list[RunFolder]:
        """The runs; none for a mere file of scores."""
        return [RunFolder(path) for path in self.paths if _is_run(path)]

    def scores(self, split: str) -> list[dict[str, Scores]]:
        """Scores of each seed: of a run its chosen network's, post-processed as tuned; a file's as they are."""
        return [chosen_scores(RunFolder(path), split)[1] if _is_run(path) else load_scores(path) for path in self.paths]


def chosen_scores(run: RunFolder, split: str) -> tuple[dict[str, Scores], dict[str, Scores], dict]:
    """Scores of a run's chosen network: raw, post-processed as tuned, and how they were post-processed."""
    tuned = run.read("postprocess.json")
    spec = tuned[tuned["chosen"]]
    raw = load_scores(run.file(f"scores/{split}_{tuned['chosen']}.parquet"))
    return raw, postprocess.build(spec).apply(raw), spec


def _is_run(path: Path) -> bool:
    return (path / "postprocess.json").is_file()


def contenders(paths: Iterable[Path]) -> list[Contender]:
    """Group paths: runs of one stage are seeds of one system, whatever their order; a stage folder means all its seeds.

    Parameters
    ----------
    paths : iterable of Path    ``models/<system>/<variant>/<stage>[/seed<k>]``, or scores

    Raises
    ------
    EvaluationError    fewer than two systems
    """
    groups: dict[Path, list[Path]] = {}
    for path in map(Path, paths):
        seeds = sorted(run.parent for run in path.glob("seed*/postprocess.json"))
        for found in seeds or [path]:
            groups.setdefault(found.parent if _is_run(found) else found, []).append(found)
    if len(groups) < 2:
        raise EvaluationError(
            f"there is only one system to compare, {[str(path) for path in groups]}; name two or more, as "
            "models/<system>/<variant>/<stage> (all seeds), models/…/seed<k>, or files of scores"
        )
    shared = os.path.commonpath([path.resolve().parent for path in groups])
    names = [path.resolve().relative_to(shared).as_posix() for path in groups]
    return [
        Contender(name, tuple(dict.fromkeys(members))) for name, members in zip(names, groups.values(), strict=True)
    ]


def corpus_of(systems: Iterable[Contender], split: str) -> Path:
    """The manifests that the runs were evaluated on: ``data/manifests/<corpus>`` of the first corpus with this split.

    Raises
    ------
    EvaluationError    there are no runs, or the runs name different corpora
    """
    folders: dict[tuple[Path, ...], str] = {}
    for run in [run for system in systems for run in system.runs]:
        named = [spec.get("as", spec["name"]) for spec in run.read("settings.json")["corpora"]]
        root = Path(run.path).absolute().parents[4]
        folders.setdefault(tuple(root / "data/manifests" / name for name in named), str(run.path))
    if len(folders) != 1:
        corpora = {run: [folder.name for folder in of_run] for of_run, run in folders.items()}
        raise EvaluationError(
            f"no clips to evaluate on are given: the runs name {corpora or 'no corpus'}; give --manifests or --truth"
        )
    return corpora_with(next(iter(folders)), split)[0]


def compare(
    systems: Mapping[str, Sequence[ScoreSet]],
    truth: Mapping[str, Iterable[Event]],
    durations: Mapping[str, float],
    rules: Rules | None = None,
    **how,
) -> list[dict]:
    """Evaluate systems on the same clips.

    Parameters
    ----------
    systems : mapping name → scores of each seed    the first one is what the others are compared with
    how    ``samples``, ``seed``, ``recordings``, ``jobs`` and ``progress`` of ``bootstrap.draw``

    Returns
    -------
    list of dict    ``system``, ``seeds``, ``metrics`` (name → mean over seeds), ``deviations`` (name → standard
                    deviation over seeds), ``per_class`` (name → class → mean), how many ``classes`` there are and the
                    ``classes_without_truth``, which no mean contains, ``intervals`` (name → [low, high]) and,
                    but for the first system, ``against_first`` (name → difference, p, and low and high if known)
    """
    judged = {
        name: [Evaluation(scores, truth, durations, rules) for scores in seeds] for name, seeds in systems.items()
    }
    witnesses = independent(tuple(durations), how.get("recordings") or {})
    drawn = iter(draw([e for seeds in judged.values() for e in seeds], **how))
    rows: list[dict] = []
    first: dict[str, np.ndarray] = {}
    for name, seeds in judged.items():
        row, draws = _row(name, [e.metrics() for e in seeds]), _mean([next(drawn) for _ in seeds])
        row |= {"classes": len(seeds[0].classes) + len(seeds[0].silent), "classes_without_truth": seeds[0].silent}
        row["intervals"] = middle_of_draws(draws, witnesses)
        if rows:
            both = [metric for metric in row["metrics"] if metric in rows[0]["metrics"] and metric in first]
            both = [metric for metric in both if metric in draws]
            gained = {metric: row["metrics"][metric] - rows[0]["metrics"][metric] for metric in both}
            row["against_first"] = {
                metric: against(first[metric], draws[metric], gained[metric], witnesses) for metric in both
            }
        first = first or draws
        rows.append(row)
    return rows


def _row(name: str, of_seeds: Sequence[Mapping]) -> dict:
    numbers = [headlines(metrics) for metrics in of_seeds]
    shared = [metric for metric in numbers[0] if all(metric in of_seed for of_seed in numbers)]
    spreads = {metric: mean_sd([of_seed[metric] for of_seed in numbers]) for metric in shared}
    return {
        "system": name,
        "seeds": len(of_seeds),
        "metrics": {metric: mean for metric, (mean, _) in spreads.items()},
        "deviations": {metric: sd for metric, (_, sd) in spreads.items() if not math.isnan(sd)},
        "per_class": {metric: _per_class(of_seeds, metric) for metric in shared},
    }


def _per_class(of_seeds: Sequence[Mapping], metric: str) -> dict[str, float]:
    tables = [metrics.get(f"{metric}_per_class", metrics[metric]) for metrics in of_seeds]
    labels = [
        label
        for label in (tables[0] if isinstance(tables[0], Mapping) else ())
        if label not in SUMMARIES and all(isinstance(table.get(label), float) for table in tables)
    ]
    return {label: float(np.mean([table[label] for table in tables])) for label in labels}


def _mean(draws: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Means over seeds of the metrics that all of them have."""
    shared = [name for name in draws[0] if all(name in of_seed for of_seed in draws)]
    return {name: np.mean([of_seed[name] for of_seed in draws], axis=0) for name in shared}


def describe_classes(row: Mapping, split: str) -> str:
    """Which classes the means are of, in words; nothing if of all.

    Parameters
    ----------
    row : mapping    of one system, from ``compare``
    split : str    what the clips are called
    """
    if not (silent := row["classes_without_truth"]):
        return ""
    more = f" and {len(silent) - MOST_NAMED} more" * (len(silent) > MOST_NAMED)
    covered = f"mean of {row['classes'] - len(silent)} of {row['classes']} classes"
    return f"{covered}; no {split} event: {', '.join(silent[:MOST_NAMED])}{more}"


def stars(p: float) -> str:
    """``**`` for p < 0.01, ``*`` for p < 0.05."""
    return "**" if p < 0.01 else "*" * (p < 0.05)


def comparison_table(rows: Sequence[Mapping]) -> list[list[str]]:
    """Text cells of ``compare``, header first: a row per metric, a column per system.

    A cell has lines: mean ± deviation over seeds; its interval; but for the first system the difference to that one
    with its interval; p with ``*`` (p < 0.05) or ``**`` (p < 0.01).
    """
    shown = [name for name in COLUMNS if all(name in row["metrics"] for row in rows)]
    table = [["metric", *(row["system"] for row in rows)]]
    for name in shown:
        table.append([name, *("\n".join(cell_lines(row, name)) for row in rows)])
    return table


def cell_lines(row: Mapping, name: str) -> list[str]:
    """What ``comparison_table`` says of one system and one metric: two lines, or four."""
    sd = row["deviations"].get(name)
    value = f"{row['metrics'][name]:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")
    lines = [value, _range(row["intervals"].get(name, ()))]
    if "against_first" in row:
        test = row["against_first"][name]
        bounds = [test[bound] for bound in ("low", "high") if bound in test]
        lines += [f"{test['difference']:+.3f} {_range(bounds, '+')}", _p(test["p"])]
    return lines


def _range(bounds: Sequence[float], sign: str = "") -> str:
    return "[" + (", ".join(f"{bound:{sign}.3f}" for bound in bounds) or "–") + "]"


def _p(p: float) -> str:
    return ("p < 0.001" if p < 0.001 else f"p = {p:.3f}") + f" {stars(p)}".rstrip()
