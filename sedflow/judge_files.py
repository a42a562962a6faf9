"""Score and label files from anywhere → metrics: what ``sedflow evaluate`` does."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from sedflow import bootstrap, recordings
from sedflow.agreement import EvaluationError
from sedflow.evaluation import CRITERIA, Evaluation, Rules
from sedflow.events import ClassSet, Event, read_clips, read_durations
from sedflow.labels import read_any_labels
from sedflow.psds import Criteria
from sedflow.scores import Scores, load_scores
from sedflow.tables import compose

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Files:
    """What is evaluated.

    Parameters
    ----------
    scores : Path    ``….parquet``, or a folder in the format of sed_scores_eval
    truth : Path    anything that ``labels.read_any_labels`` reads
    durations : Path, optional    ``filename duration``; without it clips last as long as their scores
    clips : Path, optional    ``clips.tsv``: clips that share a recording are drawn together
    windows : bool    the clips are windows of long recordings, which are joined before evaluation (MAESTRO)
    """

    scores: Path
    truth: Path
    durations: Path | None = None
    clips: Path | None = None
    windows: bool = False

    def read(self, other_labels: bool = False) -> tuple[dict[str, Scores], dict[str, list[Event]], dict[str, float]]:
        """Scores, truth and durations.

        Parameters
        ----------
        other_labels : bool    the truth may have labels that are not scored

        Raises
        ------
        EvaluationError    durations are needed and not given, or the truth names no clip
        LabelError    a label that is not scored, with file and row
        """
        scores = load_scores(self.scores)
        truth = read_truth(self.truth, scores, other_labels)
        durations = read_durations(self.durations) if self.durations else durations_of(scores, self.scores)
        if self.windows:
            truth = recordings.join_truth(truth) if truth and recordings.are_windows(truth) else truth
            durations = recordings.join_durations(scores) if recordings.are_windows(durations) else durations
            scores = recordings.join_scores(scores)
        return scores, truth, durations


def read_truth(path: Path, scores: Mapping[str, Scores], other_labels: bool = False) -> dict[str, list[Event]]:
    """True events of clips that were scored; see ``Files.read`` for what is refused."""
    classes = None if other_labels else ClassSet(next(iter(scores.values())).classes)
    truth = read_any_labels(path, classes=classes)
    if not truth:
        raise EvaluationError(f"{path}: no rows below the header, so there is nothing to evaluate against; fill it")
    if silent := len(scores.keys() - truth.keys()):
        log.warning("%d of %d scored clips have no row in %s and count as silent", silent, len(scores), path)
    return truth


def judge_files(files: Files, rules: Rules, draws: int = 0, jobs: int = 1) -> dict:
    """Every metric of some files.

    Parameters
    ----------
    draws : int    of the bootstrap; 0 leaves the intervals out

    Returns
    -------
    dict    what ``evaluation.evaluate`` gives, and under ``intervals`` how many ``draws`` of what is ``drawn`` gave
            which ``metrics`` (name → [low, high])
    """
    evaluation = Evaluation(*files.read(other_labels=rules.classes is not None), rules)
    metrics = evaluation.metrics()
    if draws and evaluation.classes:
        known = bootstrap.recordings_of(read_clips(files.clips)) if files.clips else {}
        how = {"samples": draws, "recordings": known, "jobs": jobs, "progress": bootstrap.progress_bar}
        found = bootstrap.intervals(evaluation, **how)
        drawn = bootstrap.describe_draws(evaluation.clips, known)
        metrics["intervals"] = {"metrics": found, "draws": draws, "drawn": drawn}
    return metrics


def read_class_list(text: str) -> tuple[str, ...]:
    """Labels from a file of ``data/classes``, or separated by commas."""
    if os.path.isfile(text):  # no error, as of Path, for a list longer than a file name may be
        return ClassSet.read(text).labels
    return tuple(compose(part.strip()) for part in text.split(",") if part.strip())


def read_criteria(texts: Iterable[str]) -> dict[str, Criteria]:
    """The usual PSDS and others, written ``name:dtc=0.5,gtc=0.5,max_efpr=50``.

    Raises
    ------
    EvaluationError    no name or one that is taken, an unknown parameter, not a number, or one out of range
    """
    criteria = dict(CRITERIA)
    for text in texts:
        name, asked = _criteria(text)
        if name in criteria:
            raise EvaluationError(f"{text!r}: there is a PSDS called {name!r} already; give it another name")
        criteria[name] = asked
    return criteria


def _criteria(text: str) -> tuple[str, Criteria]:
    name, _, parameters = text.rpartition(":")
    known = [field.name for field in dataclasses.fields(Criteria)]
    try:
        pairs = [pair.partition("=") for pair in parameters.split(",")]
        numbers = {key.strip(): float(value) for key, _, value in pairs}
        if not name or set(numbers) - set(known):
            raise ValueError(f"unknown {sorted(set(numbers) - set(known))}" if name else "no name")
        if lacking := {"dtc", "gtc"} - set(numbers):
            raise ValueError(f"{' and '.join(sorted(lacking))} missing")
        return name.strip(), Criteria(**numbers)
    except (ValueError, TypeError) as error:
        raise EvaluationError(
            f"{text!r} is not a valid PSDS ({error}); write name:dtc=0.5,gtc=0.5,… with any of {', '.join(known)}"
        ) from None


def durations_of(scores: Mapping[str, Scores], path: Path) -> dict[str, float]:
    """Clips as long as their scores, read from ``path``; boxes do not show how long a clip is."""
    boxes = [clip for clip, of_clip in scores.items() if np.isneginf(of_clip.values).any()]
    if boxes:
        raise EvaluationError(
            f"{path}: {len(boxes)} clips hold boxes, which may end before their clip, e.g. {boxes[:10]}; give the "
            "durations, a TSV with the columns filename and duration"
        )
    return {clip: of_clip.seconds for clip, of_clip in scores.items()}
