"""Audio of any length → Scores: overlapping windows, averaged where they overlap.

Validation, test, ``sedflow score`` and ``sedflow detect`` all go through `WindowScores`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from sedflow import audio
from sedflow.detector import Detector, fastest_device
from sedflow.events import AUDIO_SUFFIXES, Event, LabelError, clip_id, read_clips
from sedflow.frames import FrameGrid
from sedflow.memory import keep_pages
from sedflow.scores import Scores, check_target, delete_clips, save_clip, save_scores
from sedflow.specification import Specification, load_detector, read_specification

_TOGETHER = 32  # clips that are post-processed at once: one by one costs up to five times as much


@dataclasses.dataclass(frozen=True)
class Window:
    """A stretch of a clip from ``first_frame`` on: ``samples``, padded to the window's length."""

    clip: str
    seconds: float
    first_frame: int
    samples: np.ndarray


class WindowScores:
    """Collects the scores of windows and averages them into the scores of whole clips.

    Parameters
    ----------
    grid : FrameGrid
    classes : sequence of str
    """

    def __init__(self, grid: FrameGrid, classes: Iterable[str]):
        self.grid, self.classes = grid, tuple(classes)
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, np.ndarray] = {}
        self._seconds: dict[str, float] = {}

    def add(self, clip: str, seconds: float, first_frame: int, values: np.ndarray) -> None:
        """Add a window's scores (frames, classes); what reaches beyond the clip's end is padding and is cut."""
        if clip not in self._sums:
            frames = self.grid.frames(seconds)
            self._sums[clip] = np.zeros((frames, len(self.classes)), np.float32)
            self._counts[clip] = np.zeros((frames, 1), np.float32)
            self._seconds[clip] = seconds
        end = min(first_frame + len(values), len(self._sums[clip]))
        self._sums[clip][first_frame:end] += values[: end - first_frame]
        self._counts[clip][first_frame:end] += 1

    def take(self, clip: str) -> Scores:
        """The scores of a clip whose windows are complete, which is then forgotten."""
        total, counts, seconds = (of.pop(clip) for of in (self._sums, self._counts, self._seconds))
        return Scores(total / np.maximum(counts, 1), self.grid.edges(len(total), seconds), self.classes)

    @property
    def clips(self) -> list[str]:
        """Clips that had a window, in order of their first one."""
        return [*self._sums]

    def scores(self) -> dict[str, Scores]:
        """Scores of every clip that had a window."""
        return {clip: self.take(clip) for clip in sorted(self.clips)}


def windows_of(clip: str, samples: np.ndarray, rate: int, grid: FrameGrid, inference: dict) -> Iterator[Window]:
    """Cut a recording into windows whose starts are on the frame grid; the last one ends with the recording."""
    seconds = len(samples) / rate
    length = round(inference["window_seconds"] * rate)
    hop_frames = max(1, grid.first_frame(inference["hop_seconds"]))
    window_frames = grid.frames(inference["window_seconds"])
    last = max(0, grid.frames(seconds) - window_frames)
    for first_frame in [*range(0, last, hop_frames), last]:
        start = round(first_frame * grid.hop_seconds * rate)
        padded = np.zeros(length, np.float32)
        part = samples[start : start + length]
        padded[: len(part)] = part
        yield Window(clip, seconds, first_frame, padded)


def score_windows(
    detector: Detector, windows: Iterable[Window], classes: Iterable[str], batch: int, reading: str = "strong"
) -> dict[str, Scores]:
    """Score windows, and average them into the scores of their clips: ``score_clips`` as a dict."""
    return dict(score_clips(detector, windows, classes, batch, reading))


@torch.inference_mode()
def score_clips(
    detector: Detector, windows: Iterable[Window], classes: Iterable[str], batch: int, reading: str = "strong"
) -> Iterator[tuple[str, Scores]]:
    """Score windows, and average them into the scores of their clips.

    Parameters
    ----------
    detector : Detector    in evaluation mode, on whatever device it is
    windows : iterable of Window    all of one length, clip after clip
    batch : int    windows per forward pass
    reading : str    what is kept of a Prediction: "strong" (probabilities) or "strong_logits"

    Yields
    ------
    clip id and Scores    as soon as the last window of the clip is scored
    """
    keep_pages()
    collected = WindowScores(detector.grid, classes)
    waiting: list[Window] = []

    def flush():
        waveform = torch.from_numpy(np.stack([window.samples for window in waiting]))
        frames = detector.grid.frames(waveform.shape[1] / detector.sample_rate)
        valid = torch.tensor(
            [[k < detector.grid.frames(w.seconds) - w.first_frame for k in range(frames)] for w in waiting]
        )
        device = next(detector.parameters()).device
        prediction = detector(waveform.to(device), {}, frames, valid.to(device))
        strong = getattr(prediction, reading).cpu().numpy()
        for window, values in zip(waiting, strong, strict=True):
            collected.add(window.clip, window.seconds, window.first_frame, values)
        waiting.clear()

    for window in windows:
        waiting.append(window)
        if len(waiting) == batch:
            flush()
            yield from ((clip, collected.take(clip)) for clip in collected.clips if clip != window.clip)
    if waiting:
        flush()
    yield from ((clip, collected.take(clip)) for clip in collected.clips)


def score_splits(checkpoint: Path, manifests: list[Path], splits: list[str], out: Path, network: str, root=".") -> None:
    """Score whole splits with one network of a checkpoint: writes ``<split>_<network>.parquet`` into ``out``."""
    targets = {split: Path(out) / f"{split}_{network}.parquet" for split in splits}
    for target in targets.values():
        check_target(target, ())
    detector, specification = load_detector(checkpoint, network)
    clips = [clip for folder in manifests for clip in read_clips(Path(folder) / "clips.tsv")]
    for split, target in targets.items():
        paths = {clip.id: Path(root) / clip.path for clip in clips if clip.source == split}
        if not paths:
            raise LabelError(f"{manifests}: no clips of {split!r} in clips.tsv")
        save_scores(target, dict(_score_files(detector, paths, specification, split)))


def score_folder(
    folder: Path, checkpoint: Path, out: Path, raw: bool = False, network: str | None = None
) -> dict[str, Scores]:
    """Score every audio file below a folder, at any sample rate and length.

    Parameters
    ----------
    checkpoint : Path    a finished detector
    out : Path    ``….parquet``, or a folder for sed_scores_eval's TSV files, written a few clips at a time
    raw : bool    leave out the detector's own post-processing
    network : str, optional    by default the one of a finished detector; of a training checkpoint the teacher

    Raises
    ------
    LabelError    no folder, no audio in it, or two files with one name
    AudioError    recordings that cannot be read, all of them
    ScoreError    scores of these clips cannot be written to ``out``
    CheckpointError    no such network
    """
    paths = _recordings(Path(folder))
    check_target(out, paths)
    audio.lengths(paths)  # all that cannot be read are told at once, before hours of work
    detector, specification = _finished(checkpoint, network)
    finish = dict if raw else functools.partial(_postprocessed, specification=specification)
    scored = _score_files(detector, paths, specification, str(folder))
    if Path(out).suffix != ".parquet":
        return _save_some_at_a_time(Path(out), paths, scored, finish)
    scores = finish(dict(scored))
    save_scores(out, scores)
    return scores


def _save_some_at_a_time(
    out: Path, clips: Iterable[str], scored: Iterable[tuple[str, Scores]], finish: Callable[[dict], dict]
) -> dict[str, Scores]:
    """Finish and write scores as they come; what is scored is written even if a later clip fails."""
    scores: dict[str, Scores] = {}
    waiting: dict[str, Scores] = {}

    def flush():
        finished = finish(dict(waiting))
        waiting.clear()
        if not scores:
            delete_clips(out, clips)
        for clip, of_clip in finished.items():
            save_clip(out, clip, of_clip)
        scores.update(finished)

    try:
        for clip, of_clip in scored:
            waiting[clip] = of_clip
            if len(waiting) == _TOGETHER:
                flush()
    finally:
        if waiting:
            flush()
    return scores


def _recordings(folder: Path) -> dict[str, Path]:
    """Clip id → recording, of those below a folder."""
    if folder.is_file():
        raise LabelError(
            f"{folder}: this is a file, but `score` reads folders of recordings; give its folder, or use `detect`"
        )
    files = audio.recordings(folder)
    if not files:
        raise LabelError(f"{folder}: no audio files ({', '.join(AUDIO_SUFFIXES)}) in this folder")
    paths: dict[str, Path] = {}
    for path in files:
        if clip_id(path.name) in paths:
            raise LabelError(
                f"{path} and {paths[clip_id(path.name)]} would both be called {clip_id(path.name)!r}; rename one"
            )
        paths[clip_id(path.name)] = path
    return paths


def detect(path: Path, checkpoint: Path) -> list[Event]:
    """Events in one recording, by the detector's own post-processing and thresholds."""
    from sedflow.detections import detect_events

    if Path(path).is_dir():
        raise LabelError(f"{path}: this is a folder, but `detect` reads one recording; `score` reads folders")
    detector, specification = _finished(checkpoint)
    clip = clip_id(Path(path).name)
    scores = dict(_score_files(detector, {clip: Path(path)}, specification, Path(path).name))
    processed = _postprocessed(scores, specification)
    return detect_events(processed, (specification.postprocess or {}).get("thresholds"))[clip]


def _finished(checkpoint: Path, network: str | None = None):
    """One network, or the one that a finished detector holds; of a training checkpoint the teacher, if there is one."""
    return load_detector(checkpoint, network or read_specification(checkpoint).networks[-1])


def _postprocessed(scores: dict[str, Scores], specification: Specification) -> dict[str, Scores]:
    from sedflow import postprocess

    return postprocess.build(specification.postprocess).apply(scores) if specification.postprocess else scores


def _score_files(
    detector: Detector, paths: dict[str, Path], specification: Specification, title: str
) -> Iterator[tuple[str, Scores]]:
    from sedflow.progress import track

    grid = FrameGrid(specification.frame_rate)
    detector.to(fastest_device())

    def windows():
        for clip, path in track(paths.items(), f"scoring {title}"):
            samples = audio.read(path, specification.sample_rate)
            yield from windows_of(clip, samples, specification.sample_rate, grid, specification.inference)

    return score_clips(detector, windows(), specification.classes, specification.inference["batch"])
