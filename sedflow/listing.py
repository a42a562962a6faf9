"""Listings: one digest of the recordings below folders, cheap enough for every dry run."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from sedflow.audio import AudioError
from sedflow.events import AUDIO_SUFFIXES
from sedflow.files import below

_PIECE = 1 << 12  # bytes at a place of a file that tell it from another of its size
_NOTES = Path("work/listings")  # what was read of which file: a corpus of a million files is not opened twice
_SETTLED_NS = 2_000_000_000  # a file that changed less than this ago may change again without another time


def listing_digest(folders: Iterable[str]) -> str:
    """Digest of the recordings below folders: names, sizes and three pieces of each, so that a dry run can ask.

    Times do not count: a copy is the same recording, also on another machine. Files of equal size that differ only
    between the pieces pass for equal. A file is opened once, and again when its time or size changes.

    Raises
    ------
    AudioError    a link to a recording that does not exist, or a file that cannot be read
    """
    folders = [str(folder) for folder in folders]
    notes = _NOTES / f"{hashlib.sha256(json.dumps(folders).encode()).hexdigest()[:16]}.json"
    known = _read_notes(notes)
    found = [path for folder in folders for path in below(folder) if path.suffix.lower() in AUDIO_SUFFIXES]
    read = {path.as_posix(): _look(path, known.get(path.as_posix())) for path in found}
    settled = {name: [state, pieces] for name, (state, pieces) in read.items() if _is_settled(state)}
    if settled != known:
        notes.parent.mkdir(parents=True, exist_ok=True)
        unfinished = notes.with_suffix(f".{os.getpid()}")  # two processes may take notes of the same folder
        unfinished.write_text(json.dumps(settled), encoding="utf-8")
        unfinished.replace(notes)
    rows = sorted(f"{name} {pieces}" for name, (_, pieces) in read.items())
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def _read_notes(notes: Path) -> dict[str, list]:
    try:
        return json.loads(notes.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # never taken, or the machine stopped in the middle: look at all files
        return {}


def _look(path: Path, known: list | None) -> tuple[list[int], str]:
    """State of a file (size and times) and its pieces, from the notes if its state is the same."""
    try:
        stat = path.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        return state, (known[1] if known and known[0] == state else _pieces(path, stat.st_size))
    except FileNotFoundError:
        raise AudioError(
            f"{path}: a link to a recording that does not exist; restore it (disk not mounted?) or delete the link"
        ) from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}); change its rights or move it away") from None


def _is_settled(state: list[int]) -> bool:
    return max(state[1:]) < time.time_ns() - _SETTLED_NS


def _pieces(path: Path, size: int) -> str:
    """Size of a file and a digest of its start, middle and end."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for place in (0, size // 2, max(0, size - _PIECE)):
            file.seek(place)
            digest.update(file.read(_PIECE))
    return f"{size} {digest.hexdigest()[:16]}"
