"""Scores + thresholds → events, and the files that other tools open: DCASE's TSV, JSON, Audacity, Raven, a picture.

A frame is active when its score is above the class's threshold; a run of active frames is an event.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from sedflow import audio
from sedflow.events import AUDIO_SUFFIXES, Event, LabelError, write_events
from sedflow.files import check_writable, is_stream, write_text
from sedflow.labels import RAVEN_SUFFIX, RAVEN_TIMES
from sedflow.scores import Scores
from sedflow.tables import write_table

DEFAULT_THRESHOLD = 0.5
FORMATS = ("tsv", "json", "audacity", "raven")
LABEL_SUFFIXES = {"audacity": ".txt", "raven": RAVEN_SUFFIX}  # formats with one file per clip
PICTURES = (".png", ".svg", ".pdf")


def detect_events(
    scores: Mapping[str, Scores], thresholds: float | Mapping[str, float] | None = None
) -> dict[str, list[Event]]:
    """Cut scores at thresholds.

    Parameters
    ----------
    thresholds : one for all classes, or label → threshold    classes that are not named have 0.5

    Returns
    -------
    dict    clip id → events in order of onset; clips without events have an empty list
    """
    if thresholds is None:
        thresholds = {}
    if not isinstance(thresholds, Mapping):
        thresholds = dict.fromkeys(_labels(scores), thresholds)
    strangers = sorted(set(thresholds) - set(_labels(scores)))
    if scores and strangers:
        raise ValueError(f"thresholds for {strangers[:10]}, but the scores have the classes {_labels(scores)}")
    limits = np.array([thresholds.get(label, DEFAULT_THRESHOLD) for label in _labels(scores)])
    return {clip: _events_of(of_clip, limits) for clip, of_clip in scores.items()}


def _labels(scores) -> list[str]:
    return list(next(iter(scores.values())).classes) if scores else []


def _events_of(scores: Scores, limits: np.ndarray) -> list[Event]:
    active = np.pad(scores.values > limits, ((1, 1), (0, 0))).astype(np.int8)
    column, onset = np.nonzero(np.diff(active, axis=0).T == 1)
    _, offset = np.nonzero(np.diff(active, axis=0).T == -1)
    edges = scores.edges
    found = zip(column, onset, offset, strict=True)
    return sorted(Event(float(edges[begin]), float(edges[end]), scores.classes[k]) for k, begin, end in found)


def check_target(path, recording, format: str) -> None:
    """Refuse, before anything is computed, a path where detections would replace what the user made.

    Raises
    ------
    LabelError    the recording or another audio file; a folder where labels of the recording lie beside it
    OSError    no right to write there, a name that is too long
    """
    path, recording = Path(path), Path(recording)
    if path.suffix.lower() in AUDIO_SUFFIXES or path.resolve() == recording.resolve():
        raise LabelError(f"{path}: this is an audio file; name another file for the detections")
    file = _file(path, recording.stem, format)
    if file != path and file.exists() and path.resolve() == recording.parent.resolve():
        raise LabelError(f"{file}: these labels beside the recording would be replaced; name another folder")
    check_writable(file)


def write_detections(path, detections: Mapping[str, Iterable[Event]], format: str = "tsv") -> None:
    """Write the events of many clips.

    Parameters
    ----------
    path : Path    a file for ``tsv`` and ``json``, a folder for ``audacity`` and ``raven`` (one file per clip), where
        a single clip may also be written to a ``….txt``
    format : str    one of ``FORMATS``
    """
    path = Path(path)
    if format == "tsv":
        write_events(path, detections)
    elif format == "json":
        record = lambda event: {"onset": event.onset, "offset": event.offset, "label": event.label}  # noqa: E731
        table = {clip: [record(event) for event in sorted(of_clip)] for clip, of_clip in detections.items()}
        write_text(path, json.dumps(table, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    elif format in LABEL_SUFFIXES:
        write = {"audacity": _write_audacity, "raven": _write_raven}[format]
        for clip, events in detections.items():
            write(_file(path, clip, format) if len(detections) == 1 else path / (clip + LABEL_SUFFIXES[format]), events)
    else:
        raise ValueError(f"no format {format!r}; choose from {list(FORMATS)}")


def _file(path: Path, clip: str, format: str) -> Path:
    """The file for the labels of a single clip."""
    in_folder = format in LABEL_SUFFIXES and path.suffix != ".txt" and not is_stream(path)
    return path / (clip + LABEL_SUFFIXES[format]) if in_folder else path


def _write_audacity(path: Path, events: Iterable[Event]) -> None:
    write_text(path, "".join(f"{e.onset:.6f}\t{e.offset:.6f}\t{e.label}\n" for e in sorted(events)))


def _write_raven(path: Path, events: Iterable[Event]) -> None:
    columns = ("Selection", "View", "Channel", *RAVEN_TIMES, "Low Freq (Hz)", "High Freq (Hz)", "Annotation")
    rows = [
        (k, "Spectrogram 1", 1, f"{e.onset:.6f}", f"{e.offset:.6f}", "0.0", "8000.0", e.label)
        for k, e in enumerate(sorted(events), start=1)
    ]
    write_table(path, columns, rows)


def draw_detections(
    path,
    samples: np.ndarray,
    sample_rate: int,
    detections: Iterable[Event],
    truth: Iterable[Event] = (),
    title: str = "",
) -> None:
    """Write a picture: the spectrogram with a box per detection, below it a lane per class with truth dashed.

    Parameters
    ----------
    path : Path    a file that ends in one of ``PICTURES``
    samples : (samples,) float    mono
    """
    from matplotlib.figure import Figure

    detections, truth = sorted(detections), sorted(truth)
    labels = sorted({event.label for event in [*detections, *truth]})
    seconds = len(samples) / sample_rate
    figure = Figure(figsize=(10, 3 + 0.3 * len(labels)), layout="constrained")
    sound, lanes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 0.4 + 0.4 * len(labels)))
    window = min(1024, max(16, len(samples) // 8))
    sound.specgram(samples + 1e-10, NFFT=window, noverlap=window // 2, Fs=sample_rate, cmap="magma", scale="dB")
    sound.set(ylabel="Hz", title=title, ylim=(0, sample_rate / 2))
    colours = {label: f"C{k % 10}" for k, label in enumerate(labels)}
    for events, lift, style in ((detections, 0.5, "solid"), (truth, 0.05, "dashed")):
        for event in events:
            box = {"edgecolor": colours[event.label], "linestyle": style, "linewidth": 1.5}
            length, lane = event.offset - event.onset, labels.index(event.label)
            faces = [colours[event.label]] if style == "solid" else ["none"]
            lanes.broken_barh([(event.onset, length)], (lane + lift, 0.4), facecolors=faces, **box)
            if style == "solid":
                sound.axvspan(event.onset, event.offset, fill=False, **box)
    lanes.set(xlim=(0, seconds), ylim=(0, max(1, len(labels))), xlabel="seconds")
    lanes.set_yticks(np.arange(len(labels)) + 0.5, labels)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def draw_recording(path, audio_path, detections: Iterable[Event]) -> None:
    """Write the picture of ``draw_detections`` for a recording on disk."""
    rate = audio.info(audio_path).sample_rate
    draw_detections(path, audio.read(audio_path), rate, detections, title=Path(audio_path).name)
