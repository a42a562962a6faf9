"""How certain is a metric? Bootstrap over recordings: draw as many as there are, with replacement, and measure again.

A confidence interval is the range that holds the middle 95 % of the draws. Two systems that were evaluated on the same
recordings are compared draw by draw (paired), so that a hard recording is hard for both: the difference is significant
when hardly any draw reverses its sign.

``p`` is 2 · min(b, 1 − b), where b is the share of the draws' differences below zero, those of exactly zero counting
half and those that are not defined left out. It is at least 2 / (n + 1) of n draws, which cannot show anything rarer,
and 2^(1 − g) of g independent recordings, what a sign test says if all agree; at most 1; 1 if there is no draw. Of
fewer than 6 recordings draws show too little of what others would do: there is no interval, and p is never below 0.05.

Clips that share a recording are not independent, so they are drawn together, and so are clips that are connected
through others. Soundscapes mixed from one pool of recordings are all connected, and a single group leaves nothing to
draw from: they are drawn one by one. That treats them as independent, so intervals are too narrow and p is too small,
which is stated wherever the numbers are shown.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from sedflow.agreement import EvaluationError
from sedflow.evaluation import Evaluation
from sedflow.events import Clip
from sedflow.groups import FEWEST, groups_of, independent

_AVERAGES = ("macro_average", "mean", "error_rate")
LEVEL = 0.95  # of confidence
_CHUNK = 20  # draws per task

Progress = Callable[[Iterable, int], Iterable]


def headlines(metrics: Mapping) -> dict[str, float]:
    """One number per metric: the score itself or the average over classes."""
    numbers = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            value = next((value[average] for average in _AVERAGES if average in value), None)
        if isinstance(value, float) and name != "hours":
            numbers[name] = value
    return numbers


def draw_weights(
    clips: Sequence[str], samples: int, seed: int, recordings: Mapping[str, Sequence[str]] | None = None
) -> np.ndarray:
    """How often each clip was drawn, (samples, clips).

    Parameters
    ----------
    recordings : mapping clip → its recordings, optional    see ``groups_of``
    """
    group = groups_of(clips, recordings or {})
    number = len(np.unique(group))
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=samples)
    return drawn[:, np.unique(group, return_inverse=True)[1]].astype(float)


def recordings_of(clips: Iterable[Clip]) -> dict[str, tuple[str, ...]]:
    """Clip → the recordings that sound in it."""
    return {clip.id: clip.recordings for clip in clips}


def describe_draws(clips: Sequence[str], recordings: Mapping[str, Sequence[str]]) -> str:
    """What is drawn, in words: ``120 clips in 20 groups by recording``; and what that does to the intervals."""
    groups = groups_of(clips, recordings)
    number = len(np.unique(groups))
    text = f"{len(clips)} clips" + f" in {number} groups by recording" * (number < len(clips))
    if independent(clips, recordings) < FEWEST:
        return f"{text}: too few recordings for an interval"
    homes: dict[str, set[int]] = {}
    for clip, group in zip(clips, groups, strict=True):
        for name in recordings.get(clip, ()):
            homes.setdefault(name, set()).add(int(group))
    torn = sum(len(of_recording) > 1 for of_recording in homes.values())
    return text + f", drawn independently although they share {torn} recordings: the intervals are too narrow" * (
        torn > 0
    )


def no_progress_bar(chunks: Iterable, total: int) -> Iterable:
    """The chunks as they are."""
    return chunks


def progress_bar(chunks: Iterable, total: int) -> Iterable:
    """A progress bar over bootstrap draws."""
    from sedflow.progress import track

    return track(chunks, "bootstrap", total)


def processors() -> int:
    """How many processes this one may keep busy."""
    return len(os.sched_getaffinity(0))


def draw(
    evaluations: Sequence[Evaluation],
    samples: int = 1000,
    seed: int = 0,
    recordings: Mapping[str, Sequence[str]] | None = None,
    jobs: int = 1,
    progress: Progress = no_progress_bar,
) -> list[dict[str, np.ndarray]]:
    """Measure evaluations on the same draws.

    Parameters
    ----------
    recordings : mapping clip → its recordings, optional    see ``groups_of``
    jobs : int    processes
    progress : callable    (iterable, length) → iterable, a progress bar

    Returns
    -------
    list of dict    metric → (samples,), one dict per evaluation

    Raises
    ------
    EvaluationError    the evaluations were made on different clips
    """
    clips = evaluations[0].clips
    for other in evaluations[1:]:
        if other.clips != clips:
            odd = sorted(set(clips) ^ set(other.clips))
            raise EvaluationError(f"paired draws need the same clips; {len(odd)} are not in all runs, e.g. {odd[:10]}")
    weights = draw_weights(clips, samples, seed, recordings)
    chunks = [weights[begin : begin + _CHUNK] for begin in range(0, samples, _CHUNK)]
    if jobs > 1:
        with ProcessPoolExecutor(jobs, initializer=_Worker.take, initargs=(evaluations,)) as pool:
            parts = list(progress(pool.map(_Worker.measure, chunks), len(chunks)))
    else:
        parts = [_headlines_of(evaluations, chunk) for chunk in progress(chunks, len(chunks))]
    return [_columns([row for part in parts for row in part[k]]) for k in range(len(evaluations))]


def _headlines_of(evaluations, chunk):
    return [[headlines(evaluation.metrics(weights)) for weights in chunk] for evaluation in evaluations]


def _columns(rows):
    return {
        name: np.array([row.get(name, np.nan) for row in rows])
        for name in dict.fromkeys(n for row in rows for n in row)
    }


def middle_of_draws(drawn: Mapping[str, np.ndarray], witnesses: int) -> dict[str, list[float]]:
    """Confidence intervals: metric → [low, high], where defined; none of fewer than ``FEWEST`` ``witnesses``.

    Parameters
    ----------
    witnesses : int    how many recordings are ``independent``
    """
    if witnesses < FEWEST:
        return {}
    finite = {name: values[np.isfinite(values)] for name, values in drawn.items()}
    return {name: _middle(values) for name, values in finite.items() if len(values)}


def against(first: np.ndarray, second: np.ndarray, measured: float, witnesses: int) -> dict[str, float]:
    """Paired test of ``second`` − ``first``: measured ``difference``, ``p``, and ``low`` to ``high`` if it is known.

    Parameters
    ----------
    witnesses : int    how many recordings are ``independent``
    """
    differences = (second - first)[np.isfinite(second - first)]
    bounds = dict(zip(("low", "high"), middle_of_draws({"": differences}, witnesses).get("", ()), strict=False))
    below = np.mean(differences < 0) + np.mean(differences == 0) / 2 if len(differences) else 0.5
    smallest = max(1 / (len(differences) + 1), 2.0**-witnesses)  # so few cannot tell anything rarer
    p = min(1.0, 2 * max(min(below, 1 - below), smallest))
    return {"difference": measured, **bounds, "p": float(p)}


def intervals(evaluation: Evaluation, **how) -> dict:
    """Confidence intervals of one evaluation: metric → [low, high], where defined; ``how`` is that of ``draw``."""
    witnesses = independent(evaluation.clips, how.get("recordings") or {})
    return middle_of_draws(draw([evaluation], **how)[0], witnesses) if witnesses >= FEWEST else {}


def _middle(values: np.ndarray) -> list[float]:
    return [float(q) for q in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


class _Worker:
    """What a process keeps, so that the counts travel to it once."""

    evaluations: Sequence[Evaluation] = ()

    @classmethod
    def take(cls, evaluations):
        cls.evaluations = evaluations

    @classmethod
    def measure(cls, chunk):
        return _headlines_of(cls.evaluations, chunk)
