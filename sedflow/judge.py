"""A run's scores on disk → tuned post-processing → metrics. Validation decides, test is only measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sedflow import bootstrap, evaluation, postprocess, postprocess_checks, recordings, tuning
from sedflow.agreement import EvaluationError
from sedflow.events import Event, read_clips, read_durations, read_events
from sedflow.scores import Scores, load_scores

Truth = dict[str, list[Event]]
DRAWS = 500
HEADLINE_RULES = evaluation.Rules(parts=("psds", "collar", "intersection"), best=False)


def read_truth(folder: Path, split: str) -> tuple[Truth, dict[str, float]]:
    """Events and durations of a split of one corpus; of soft labels those more likely than not.

    Parameters
    ----------
    folder : Path    ``data/manifests/<corpus>``
    split : str    ``validation`` or ``test``
    """
    truth = read_events(Path(folder) / f"{split}.tsv")
    if any(event.confidence < 1 for events in truth.values() for event in events):
        truth = {clip: recordings.sounding(events) for clip, events in truth.items()}
    return truth, read_durations(Path(folder) / f"{split}_durations.tsv")


def corpora_with(manifests: Sequence[Path], split: str) -> list[Path]:
    """The corpora that have a split, in the order of the page: the first one's numbers are the headline."""
    folders = [Path(folder) for folder in manifests if (Path(folder) / f"{split}.tsv").is_file()]
    if not folders:
        raise EvaluationError(f"no {split}.tsv in {[str(folder) for folder in manifests]}; run `snakemake` to make it")
    return folders


def of_corpus(folder: Path, split: str, scores: Mapping[str, Scores]) -> tuple[dict[str, Scores], Truth, dict]:
    """Scores, truth and durations of one corpus' clips; windows of long recordings are joined.

    Each corpus is evaluated alone: the clips of another do not show which of its classes sound in them.
    """
    truth, durations = read_truth(folder, split)
    own = {clip: of_clip for clip, of_clip in scores.items() if clip in durations}
    if recordings.durations_match_names(durations):
        return recordings.join_scores(own), recordings.join_truth(truth), recordings.join_durations(durations)
    return own, truth, durations


def tune_run(scores: Sequence[Path], manifests: Sequence[Path], kind: dict, objective: str) -> dict:
    """Tune the post-processing of every network of a run on validation, and choose the network.

    Parameters
    ----------
    scores : sequence of Path    ``validation_<network>.parquet``
    manifests : sequence of Path
    kind : dict    from the page, see `postprocess_checks.check`
    objective : str    one of ``postprocess_checks.OBJECTIVES``

    Returns
    -------
    dict    network → what `tuning.tune_classes` gives, and under ``chosen`` the network with the best result
    """
    postprocess_checks.check(kind, objective)
    objective = kind.get("objective", objective)
    folders = corpora_with(manifests, "validation")
    tuned = {}
    for network, of_network in _by_network(scores, "validation", folders).items():
        parts = []
        for folder in folders:
            truth, durations = read_truth(folder, "validation")
            own = {clip: of_clip for clip, of_clip in of_network.items() if clip in durations}
            what = own, truth, durations, "validation"
            meant = folder.name in kind.get("corpora", [folder.name])
            candidates = kind.get("candidates") if meant else [{"name": "none"}]
            parts.append(tuning.tune_classes(kind["name"], candidates, *what, objective))
        # of a class that sounds nowhere nobody knows whether it belongs to a corpus that post-processing is for
        tuned[network] = tuning.join(parts, {"name": "none"} if "corpora" in kind else None)
    reached = {network: sum(spec["reached"].values()) for network, spec in tuned.items()}
    return {**tuned, "chosen": max(reached, key=reached.get)}


def evaluate_run(scores: Sequence[Path], manifests: Sequence[Path], tuned: Mapping) -> tuple[dict, dict]:
    """Evaluate every network of a run on test.

    Parameters
    ----------
    scores : sequence of Path    ``test_<network>.parquet``
    manifests : sequence of Path
    tuned : mapping    what `tune_run` gave

    Returns
    -------
    metrics : dict    network → ``raw`` and ``postprocessed`` → what `evaluation.evaluate` gives; ``chosen``; and the
                      ``intervals`` of the chosen network, post-processed
        With several corpora these are the numbers of the first; those of all are under ``corpora``.
    roc : dict    PSD-ROC of the chosen network, post-processed
    """
    folders = corpora_with(manifests, "test")
    metrics: dict = {"chosen": tuned["chosen"]}
    for network, raw in _by_network(scores, "test", folders).items():
        processed = postprocess.build(tuned[network]).apply(raw)
        metrics[network] = {
            "raw": _judged(folders, {folder: of_corpus(folder, "test", raw) for folder in folders}),
            "postprocessed": _judged(folders, {folder: of_corpus(folder, "test", processed) for folder in folders}),
        }
        if network == tuned["chosen"]:
            first = of_corpus(folders[0], "test", processed)
            roc = evaluation.psd_roc(*first)
            metrics["intervals"] = intervals(folders[0], *first)
    return metrics, roc


def _judged(folders: Sequence[Path], sets: Mapping) -> dict:
    of_each = {folder.name: evaluation.evaluate(*sets[folder]) for folder in folders}
    first = of_each[folders[0].name]
    return {**first, "corpora": of_each} if len(folders) > 1 else first


def intervals(folder: Path, scores: Mapping[str, Scores], truth: Truth, durations: Mapping[str, float]) -> dict:
    """Confidence intervals of the headline ``metrics`` (name → [low, high]), ``draws``, and what was ``drawn``."""
    judged = evaluation.Evaluation(scores, truth, durations, HEADLINE_RULES)
    known = bootstrap.recordings_of(read_clips(Path(folder) / "clips.tsv"))
    found = bootstrap.intervals(judged, samples=DRAWS, recordings=known) if judged.classes else {}
    return {"metrics": found, "draws": DRAWS, "drawn": bootstrap.describe_draws(judged.clips, known)}


def _by_network(paths: Sequence[Path], split: str, folders: Sequence[Path]) -> dict[str, dict[str, Scores]]:
    """Scores by network; the split is part of the file names, so that nobody tunes on test by mistake."""
    odd = [str(path) for path in paths if not Path(path).stem.startswith(f"{split}_")]
    if odd:
        raise EvaluationError(f"{odd[0]}: not {split} scores; expected {split}_<network>.parquet")
    known = {clip for folder in folders for clip in read_durations(folder / f"{split}_durations.tsv")}
    of_network = {}
    for path in paths:
        scores = load_scores(path)
        strangers = sorted(set(scores) - known)
        if strangers:
            names = [folder.name for folder in folders]
            raise EvaluationError(f"{path}: {len(strangers)} clips belong to none of {names}, e.g. {strangers[:10]}")
        of_network[Path(path).stem.removeprefix(f"{split}_")] = scores
    return of_network
