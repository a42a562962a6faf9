"""Windows of long recordings → whole recordings, and soft labels → events: how MAESTRO is judged.

A window is called ``<recording>-<onset in 1/100 s>-<offset in 1/100 s>``. Its frame scores become the mean score of
each second; where windows overlap the seconds are averaged. Soft labels give each second a confidence (the share of
annotators who heard the class); a second sounds when that lies above 0.5. Then ``sedflow.evaluation`` judges the
recordings like any clip; the challenge's number is ``segment_mpauc_max_fpr_0.1``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from sedflow.events import Event, merge_events
from sedflow.scores import ScoreError, Scores

SOUNDS = 0.5  # confidence
_ROUNDING_SECONDS = 0.05  # names count hundredths of a second, and audio is cut at samples
_WINDOW = re.compile(r"(?P<recording>.+)-(?P<onset>\d+)-(?P<offset>\d+)")


def parse_window(clip: str) -> tuple[str, float, float]:
    """Recording, onset and offset (seconds) of a window's name."""
    parts = _WINDOW.fullmatch(clip)
    if not parts or int(parts["offset"]) <= int(parts["onset"]):
        raise ScoreError(f"{clip!r} is not a window; expected <recording>-<onset in 1/100 s>-<offset in 1/100 s>")
    return parts["recording"], int(parts["onset"]) / 100, int(parts["offset"]) / 100


def are_windows(clips: Iterable[str]) -> bool:
    """Whether all names are windows' names."""
    return all(_WINDOW.fullmatch(clip) for clip in clips)


def durations_match_names(durations: Mapping[str, float]) -> bool:
    """Whether clips are windows, and as long as their names say: a date and a time look like one, ``park-2024-05``."""
    if not durations or not are_windows(durations):
        return False
    spans = ((clip, *map(int, _WINDOW.fullmatch(clip).group("onset", "offset"))) for clip in durations)
    return all(abs((offset - onset) / 100 - durations[clip]) < _ROUNDING_SECONDS for clip, onset, offset in spans)


def join_scores(windows: Mapping[str, Scores]) -> dict[str, Scores]:
    """Mean scores of the seconds of whole recordings.

    Parameters
    ----------
    windows : mapping window name → Scores    times from the start of the window

    Raises
    ------
    ScoreError    a name is no window's, or a part of a recording that no window covers
    """
    members: dict[str, list[tuple[float, float, Scores]]] = {}
    for clip, scores in windows.items():
        recording, onset, offset = parse_window(clip)
        members.setdefault(recording, []).append((onset, offset, scores))
    return {recording: _joined(recording, parts) for recording, parts in members.items()}


def _joined(recording, parts) -> Scores:
    classes = parts[0][2].classes
    edges = np.arange(np.ceil(max(offset for _, offset, _ in parts) - 1e-6) + 1)
    area, heard = np.zeros((2, len(edges) - 1, len(classes)))
    covered = np.zeros(len(edges) - 1)
    # outside of boxes of change detection a score is -inf, which has no mean with others: there it counts as the lowest
    lowest = min(0.0, *(scores.values.min(where=np.isfinite(scores.values), initial=0.0) for *_, scores in parts))
    for onset, offset, scores in parts:
        inside = np.clip(edges - onset, 0.0, min(offset - onset, scores.seconds))
        found = ~np.isneginf(scores.values)
        area += _integrals(np.where(found, scores.values, lowest), scores.edges, inside)
        heard += _integrals(found, scores.edges, inside)
        covered += np.diff(inside)
    if (covered < 1e-6).any():
        raise ScoreError(f"{recording}: no window covers {edges[int(np.argmin(covered))]:.2f} s; score all windows")
    return Scores(np.where(heard > 1e-9, area / covered[:, None], -np.inf), edges, classes)


def _integrals(values: np.ndarray, frames: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Integrals of (frames, classes) over the segments between ``edges``, (segments, classes)."""
    integral = np.cumsum(values * np.diff(frames)[:, None], axis=0)
    integral = np.concatenate([np.zeros((1, values.shape[1])), integral])
    return np.stack([np.diff(np.interp(edges, frames, of_class)) for of_class in integral.T], axis=1)


def join_durations(windows: Iterable[str]) -> dict[str, float]:
    """Seconds of the recordings: where their last windows end."""
    ends: dict[str, float] = {}
    for clip in windows:
        recording, _, offset = parse_window(clip)
        ends[recording] = max(offset, ends.get(recording, 0.0))
    return ends


def join_truth(windows: Mapping[str, Iterable[Event]]) -> dict[str, list[Event]]:
    """Events of whole recordings; what overlaps or touches becomes one event."""
    members: dict[str, list[Event]] = {}
    for clip, events in windows.items():
        recording, onset, _ = parse_window(clip)
        shifted = [dataclasses.replace(e, onset=e.onset + onset, offset=e.offset + onset) for e in events]
        members.setdefault(recording, []).extend(shifted)
    return {recording: merge_events(events, max_gap=1e-6) for recording, events in members.items()}


def sounding(events: Iterable[Event]) -> list[Event]:
    """Soft labels of a clip → events where the confidence lies above `SOUNDS`, joined where they touch."""
    return merge_events((dataclasses.replace(e, confidence=1.0) for e in events if e.confidence > SOUNDS), 1e-6)
