"""What an ensemble says about training clips: pseudo-labels for the next iteration.

Every member scores a source by itself (`score_source`), then their logits are averaged (`average_logits`): a further
member costs its own jobs and leaves the others' results alone. Both write shards in the format of the feature cache,
(clips, frames, classes) in fp16, whose index also names the classes and the members.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sedflow.events import Clip, LabelError, read_clips
from sedflow.files import replacing, write_text
from sedflow.frames import FrameGrid

CHUNK = 64  # clips held in memory at a time
SILENCE = -30.0  # logit of the frames behind a clip's end, whose probability is 0 to fp16
LARGEST = float(np.finfo(np.float16).max)


class EnsembleError(ValueError):
    """Members that cannot be averaged; the message says which and why."""


def score_source(checkpoint: Path, network: str, clips: Path, source: str, out: Path, root: Path = Path()) -> None:
    """Write what one member says about every clip of a source.

    Parameters
    ----------
    checkpoint : Path    ``best.safetensors`` of a finished run
    network : str    "student" or "teacher"
    clips : Path    clip table of a corpus
    source : str
    out : Path    the ``.npy`` file; its index has the suffix ``.json``
    root : Path    folder the clips' paths are relative to
    """
    from sedflow.detector import fastest_device
    from sedflow.specification import load_detector

    detector, specification = load_detector(checkpoint, network)
    detector.to(fastest_device())
    chosen = sorted((clip for clip in read_clips(clips) if clip.source == source), key=lambda clip: clip.id)
    if not chosen:
        raise LabelError(f"{clips}: no clips of {source!r}, so there is nothing to label")
    frames = FrameGrid(specification.frame_rate).frames(specification.clip_seconds)
    index = {
        "clips": [[clip.id, clip.sha256] for clip in chosen],
        "classes": specification.classes,
        "frame_rate": specification.frame_rate,
        "members": [f"{Path(checkpoint).parent.as_posix()} {network}"],
        "shape": [len(chosen), frames, len(specification.classes)],
    }
    write_logits(out, index, _scored(detector, specification, chosen, frames, root))


def _scored(detector, specification, clips: list[Clip], frames: int, root: Path) -> Iterator[np.ndarray]:
    """Logits (clips, frames, classes), `CHUNK` clips at a time."""
    from sedflow import audio
    from sedflow.inference import score_windows, windows_of
    from sedflow.progress import track

    grid, rate, settings = FrameGrid(specification.frame_rate), specification.sample_rate, specification.inference

    def windows(part: list[Clip]):
        for clip in part:
            yield from windows_of(clip.id, audio.read(Path(root) / clip.path, rate), rate, grid, settings)

    for start in track(range(0, len(clips), CHUNK), f"scoring {clips[0].source}"):
        part = clips[start : start + CHUNK]
        scored = score_windows(detector, windows(part), specification.classes, settings["batch"], "strong_logits")
        logits = np.full((len(part), frames, len(specification.classes)), SILENCE, np.float32)
        for row, clip in zip(logits, part, strict=True):
            values = scored[clip.id].values[:frames]
            row[: len(values)] = values
        yield logits


def average_logits(members: list[Path], out: Path) -> None:
    """Write the arithmetic mean of the members' logits, in the order in which they are named.

    Source: CP-JKU, DCASE 2024 Task 4 (the mean of logits, before the sigmoid).

    Raises
    ------
    EnsembleError    the members differ in clips, audio, classes or frames
    """
    indices = [json.loads(Path(member).with_suffix(".json").read_text(encoding="utf-8")) for member in members]
    for member, index in zip(members, indices, strict=True):
        for key in ("clips", "classes", "frame_rate", "shape"):
            if index[key] != indices[0][key]:
                raise EnsembleError(f"{member}: other {key} than {members[0]}; an ensemble's members need the same")
    arrays = [np.load(member, mmap_mode="r") for member in members]
    parts = (
        np.mean([array[start : start + CHUNK].astype(np.float32) for array in arrays], axis=0)
        for start in range(0, len(arrays[0]), CHUNK)
    )
    write_logits(out, {**indices[0], "members": [name for index in indices for name in index["members"]]}, parts)


def write_logits(out: Path, index: dict, parts: Iterable[np.ndarray]) -> None:
    """Write logits part by part, the array before its index: without an index a shard does not count."""
    out = Path(out)
    with replacing(out) as unfinished:
        _write_array(unfinished, index, parts, out)
    write_text(out.with_suffix(".json"), json.dumps(index, indent=0, sort_keys=True) + "\n")


def _write_array(unfinished: Path, index: dict, parts: Iterable[np.ndarray], out: Path) -> None:
    array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=tuple(index["shape"]))
    start = 0
    for part in parts:
        if not np.isfinite(part).all():
            odd = index["clips"][start + int(np.argmin(np.isfinite(part).all(axis=(1, 2))))][0]
            raise EnsembleError(f"{out}: the scores of clip {odd!r} are not finite; check the training of the member")
        array[start : start + len(part)] = part.clip(-LARGEST, LARGEST)
        start += len(part)
    array.flush()
