"""The best and the worst clips of a run, ready to be drawn: spectrogram, sound, and a lane per class."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sedflow import audio
from sedflow.events import Clip, Event
from sedflow.figures import Axis, player, score_path, spectrogram
from sedflow.mistakes import Judgement
from sedflow.scores import Scores

EXCERPT_SECONDS = 30.0  # of a longer clip the page shows a part, or it would carry minutes of sound
LEAD_SECONDS = 5.0
DRAWN_FRAMES = 600
HIGHEST_RATE = 32000  # Hz; MP3 knows 16 kHz and 32 kHz, and nobody judges detections above 16 kHz


@dataclasses.dataclass(frozen=True)
class Study:
    """One network's post-processed scores on a held-out split, judged.

    Parameters
    ----------
    scores, truth, detections, judgements : mapping clip id → …
    thresholds : mapping label → score above which a class is detected
    """

    scores: Mapping[str, Scores]
    truth: Mapping[str, list[Event]]
    detections: Mapping[str, list[Event]]
    judgements: Mapping[str, Judgement]
    thresholds: Mapping[str, float]

    @property
    def classes(self) -> tuple[str, ...]:
        """Column order of the scores."""
        return next(iter(self.scores.values())).classes

    @property
    def score_range(self) -> tuple[float, float]:
        """0 and 1, or the lowest and highest score when there are others."""
        finite = [of_clip.values[np.isfinite(of_clip.values)] for of_clip in self.scores.values()]
        low, high = min(v.min(initial=0) for v in finite), max(v.max(initial=1) for v in finite)
        return float(low), float(high)


def best_and_worst(study: Study, count: int) -> tuple[list[str], list[str]]:
    """Clip ids by F1; among equals the clips with more events are better and those with more mistakes worse.

    No clip stands in both lists; a clip without mistakes is never among the worst.
    """

    def mistakes(clip):
        return len(study.judgements[clip].missed) + len(study.judgements[clip].wrong)

    worst = sorted(
        (clip for clip in study.judgements if mistakes(clip)),
        key=lambda clip: (study.judgements[clip].f1, -mistakes(clip), clip),
    )[:count]
    best = sorted(
        (clip for clip in study.judgements if clip not in worst),
        key=lambda clip: (-study.judgements[clip].f1, -len(study.judgements[clip].found), clip),
    )[:count]
    return best, worst


def clip_card(study: Study, clip: str, files: Mapping[str, Clip], root: Path) -> dict:
    """Everything the template draws for one clip."""
    scores, judgement = study.scores[clip], study.judgements[clip]
    onset, seconds = _excerpt(scores.seconds, judgement)
    axis = Axis("", onset, onset + seconds)
    sounding = {e.label for e in [*study.truth.get(clip, []), *study.detections.get(clip, [])]}
    lanes = [_lane(study, clip, label, axis) for label in study.classes if label in sounding]
    sound = _sound(clip, files, root, onset, seconds)
    return {
        "id": clip,
        "seconds": round(seconds, 3),
        "excerpt": f"{onset:.0f}–{onset + seconds:.0f}" if seconds < scores.seconds else None,
        "events": len(judgement.found) + len(judgement.missed),
        "found": len(judgement.found),
        "wrong": len(judgement.wrong),
        "f1": judgement.f1,
        "lanes": lanes,
        "ticks": axis.ticks(5),
        **sound,
    }


def _excerpt(seconds: float, judgement: Judgement) -> tuple[float, float]:
    if seconds <= EXCERPT_SECONDS:
        return 0.0, seconds
    marks = sorted(judgement.missed + judgement.wrong) or sorted(judgement.found)
    onset = max(0.0, marks[0].onset - LEAD_SECONDS) if marks else 0.0
    return min(onset, seconds - EXCERPT_SECONDS), EXCERPT_SECONDS


def _lane(study: Study, clip: str, label: str, axis: Axis) -> dict:
    scores, judgement = study.scores[clip], study.judgements[clip]
    low, high = study.score_range
    # boxes have frames of unequal length; the drawing takes them at equal steps
    times = np.linspace(axis.low, axis.high, DRAWN_FRAMES + 1)[:-1] + (axis.high - axis.low) / DRAWN_FRAMES / 2
    frames = np.clip(np.searchsorted(scores.edges, times, side="right") - 1, 0, len(scores.values) - 1)
    shares = (np.clip(scores.column(label)[frames], low, high) - low) / (high - low)
    threshold = (study.thresholds[label] - low) / (high - low)
    bands = {
        kind: [_band(event, axis, kind) for event in getattr(judgement, kind) if event.label == label]
        for kind in ("found", "missed", "right", "wrong")
    }
    return {
        "label": label,
        "path": score_path(shares),
        "scores": base64.b64encode((shares * 255).round().astype(np.uint8).tobytes()).decode(),
        "threshold": round(100 - 100 * min(max(threshold, 0.0), 1.0), 1),
        "truth": [band for band in bands["found"] + bands["missed"] if band],
        "detections": [band for band in bands["right"] + bands["wrong"] if band],
    }


def _band(event: Event, axis: Axis, kind: str) -> dict | None:
    begin, end = max(event.onset, axis.low), min(event.offset, axis.high)
    if begin >= end:
        return None
    left, right = axis.percent([begin, end])
    title = f"{kind}: {event.label} {event.onset:.2f}–{event.offset:.2f} s"
    return {"left": round(float(left), 2), "width": round(float(right - left), 2), "kind": kind, "title": title}


def _sound(clip: str, files: Mapping[str, Clip], root: Path, onset: float, seconds: float) -> dict:
    """Picture and player, or the reason why there are none."""
    if clip not in files:
        return _silent("The manifest does not say where the audio of this clip is.")
    path = Path(root) / files[clip].path
    try:
        rate = HIGHEST_RATE if audio.info(path).sample_rate >= HIGHEST_RATE else HIGHEST_RATE // 2
        samples = audio.read(path, rate, onset, seconds)
    except audio.AudioError:
        return _silent(f"The audio {files[clip].path} cannot be read here: no spectrogram, no player.")
    return {"picture": spectrogram(samples, rate), "sound": player(samples, rate), "missing": None}


def _silent(reason: str) -> dict:
    return {"picture": None, "sound": None, "missing": reason}


def snrs_of(clips: Sequence[Clip], root: Path) -> dict[str, list[tuple[Event, float]]]:
    """How loud each event was mixed in: the JAMS files that Scaper writes beside its soundscapes.

    Returns
    -------
    dict    clip id → list of (event as placed, dB over the background); clips without JAMS are left out
    """
    import json

    levels = {}
    for clip in clips:
        path = (Path(root) / clip.path).with_suffix(".jams")
        if path.is_file():
            annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
            placed = [
                o for annotation in annotations for o in annotation["data"] if o["value"].get("role") == "foreground"
            ]
            levels[clip.id] = [
                _level(observation) for observation in placed if math.isfinite(observation["value"]["snr"])
            ]
    return levels


def _level(observation: dict) -> tuple[Event, float]:
    value = observation["value"]
    event = Event(observation["time"], observation["time"] + observation["duration"], value["label"])
    return event, float(value["snr"])
