"""Several runs on the same clips, side by side, with paired significance against the first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sedflow import postprocess
from sedflow.bootstrap import Progress, against, draw, headlines, spread, unseen
from sedflow.evaluation import Evaluation
from sedflow.events import Event
from sedflow.runs import RunFolder
from sedflow.scores import Scores, load_scores

COLUMNS = ("psds1", "psds2", "psds1_macro", "collar_f1_at_0.5", "intersection_f1_at_0.5", "segment_mpauc_max_fpr_0.1")


def scores_of_run(path, split: str = "test") -> dict[str, Scores]:
    """Scores of a run's chosen network, post-processed as tuned; a plain score file or folder is taken as it is."""
    if not (Path(path) / "postprocess.json").is_file():
        return load_scores(path)
    run = RunFolder(Path(path))
    tuned = run.read("postprocess.json")
    network = tuned["chosen"]
    return postprocess.build(tuned[network]).apply(load_scores(run.file(f"scores/{split}_{network}.parquet")))


def compare(
    runs: Mapping[str, Mapping[str, Scores]],
    truth: Mapping[str, Iterable[Event]],
    durations: Mapping[str, float],
    samples: int = 1000,
    seed: int = 0,
    recordings: Mapping[str, str] | None = None,
    jobs: int = 1,
    progress: Progress = unseen,
) -> list[dict]:
    """Judge runs on the same clips.

    Parameters
    ----------
    runs : mapping name → scores    the first one is what the others are compared with
    recordings : mapping clip → recording, optional    drawn together

    Returns
    -------
    list of dict    ``run``, ``metrics`` (name → value), ``intervals`` (name → [low, high]) and, but for the first run,
                    ``against_first`` (name → difference, low, high, p)
    """
    judged = {name: Evaluation(scores, truth, durations) for name, scores in runs.items()}
    drawn = draw(list(judged.values()), samples, seed, recordings, jobs, progress)
    rows = []
    for k, (name, evaluation) in enumerate(judged.items()):
        row = {"run": name, "metrics": headlines(evaluation.metrics()), "intervals": spread(drawn[k])}
        if k:
            measured = {m: row["metrics"][m] - rows[0]["metrics"].get(m, math.nan) for m in row["metrics"]}
            row["against_first"] = {m: against(drawn[0][m], drawn[k][m], measured[m]) for m in sorted(measured)}
        rows.append(row)
    return rows


def comparison_table(rows: Sequence[Mapping], columns: Sequence[str] = COLUMNS) -> list[list[str]]:
    """Text cells of ``compare``, header first; ``*`` marks p < 0.05 and ``**`` p < 0.01 against the first run."""
    shown = [name for name in columns if all(name in row["metrics"] for row in rows)]
    table = [["run", *shown]]
    for row in rows:
        cells = []
        for name in shown:
            low, high = row["intervals"][name]
            p = row.get("against_first", {}).get(name, {}).get("p", 1.0)
            cells.append(
                f"{row['metrics'][name]:.3f} [{low:.3f}, {high:.3f}]" + (" **" if p < 0.01 else " *" * (p < 0.05))
            )
        table.append([row["run"], *cells])
    return table
