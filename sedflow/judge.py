"""A run's scores on disk → tuned post-processing → metrics. Validation decides, test is only measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sedflow import evaluation, postprocess, tuning
from sedflow.agreement import EvaluationError
from sedflow.events import Event, read_durations, read_events
from sedflow.scores import Scores, load_scores

Truth = dict[str, list[Event]]


def read_truth(manifests: Sequence[Path], split: str) -> tuple[Truth, dict[str, float]]:
    """Events and durations of a split over all corpora that have it.

    Parameters
    ----------
    manifests : sequence of Path    ``data/manifests/<corpus>``, one per corpus
    split : str    ``validation`` or ``test``
    """
    folders = [Path(folder) for folder in manifests if (Path(folder) / f"{split}.tsv").is_file()]
    if not folders:
        raise EvaluationError(f"no {split}.tsv in {[str(folder) for folder in manifests]}; run `snakemake` to make it")
    truth, durations = {}, {}
    for folder in folders:
        truth |= read_events(folder / f"{split}.tsv")
        durations |= read_durations(folder / f"{split}_durations.tsv")
    return truth, durations


def tune(scores: Sequence[Path], manifests: Sequence[Path], kind: dict, objective: str) -> dict:
    """Tune the post-processing of every network of a run on validation, and choose the network.

    Parameters
    ----------
    scores : sequence of Path    ``validation_<network>.parquet``
    manifests : sequence of Path
    kind : dict    ``name`` of the post-processor and, optional, ``candidates`` to choose from
    objective : str    one of ``tuning.OBJECTIVES``

    Returns
    -------
    dict    network → what `tuning.tune` gives, and under ``chosen`` the network that reached most
    """
    truth, durations = read_truth(manifests, "validation")
    tuned = {
        network: tuning.tune(
            kind["name"], kind.get("candidates"), of_network, truth, durations, "validation", objective
        )
        for network, of_network in _by_network(scores, "validation").items()
    }
    reached = {network: sum(told["reached"].values()) for network, told in tuned.items()}
    return {**tuned, "chosen": max(reached, key=reached.get)}


def evaluate(scores: Sequence[Path], manifests: Sequence[Path], tuned: Mapping) -> tuple[dict, dict]:
    """Judge every network of a run on test.

    Parameters
    ----------
    scores : sequence of Path    ``test_<network>.parquet``
    manifests : sequence of Path
    tuned : mapping    what `tune` gave

    Returns
    -------
    metrics : dict    network → ``raw`` and ``postprocessed`` → what `evaluation.evaluate` gives; and ``chosen``
    roc : dict    PSD-ROC of the chosen network, post-processed
    """
    truth, durations = read_truth(manifests, "test")
    metrics: dict = {"chosen": tuned["chosen"]}
    for network, raw in _by_network(scores, "test").items():
        processed = postprocess.build(tuned[network]).apply(raw)
        metrics[network] = {
            "raw": evaluation.evaluate(raw, truth, durations),
            "postprocessed": evaluation.evaluate(processed, truth, durations),
        }
        if network == tuned["chosen"]:
            roc = evaluation.psd_roc(processed, truth, durations)
    return metrics, roc


def write_json(path: Path, content: Mapping) -> None:
    """Write sorted JSON through a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _by_network(paths: Sequence[Path], split: str) -> dict[str, dict[str, Scores]]:
    """Scores by network; the split stands in the files' names, so that nobody tunes on test by mistake."""
    odd = [str(path) for path in paths if not Path(path).stem.startswith(f"{split}_")]
    if odd:
        raise EvaluationError(f"{odd[0]}: not {split} scores; expected {split}_<network>.parquet")
    return {Path(path).stem.removeprefix(f"{split}_"): load_scores(path) for path in paths}
