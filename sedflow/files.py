"""Files: written whole or not at all, listed, summed; errors of the operating system are explained with a cure."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def replacing(path) -> Iterator[Path]:
    """A temporary name next to ``path`` to write to, moved there at the end; an error leaves only the old file.

    A link stays and leads to what is written. A pipe or device is given as it is.
    """
    path = Path(path)
    if is_stream(path):
        yield path
        return
    path = _led_to(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def check_writable(path) -> None:
    """Raise the ``OSError`` of writing ``path``, if there would be one; nothing is left there."""
    if is_stream(path):
        return
    path = _led_to(Path(path))
    folder = next(parent for parent in path.parents if parent.exists())
    unfinished = folder / (path.name + ".part")
    unfinished.touch()
    unfinished.unlink()


def is_stream(path) -> bool:
    """Whether a path can be written into but not replaced: a pipe, a device, ``/dev/stdout`` unless that is a file."""
    return os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(os.path.realpath(path))


def _led_to(path: Path) -> Path:
    """What a link leads to, unless that is protected, as files of a cache are: the link itself is then replaced."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    return target if not target.exists() or target.stat().st_mode & 0o222 else path


def write_text(path, text: str) -> None:
    """Write a text file whole."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path, content: Mapping) -> None:
    """Write sorted JSON whole."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def sha256(path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def below(folder) -> Iterator[Path]:
    """Files anywhere below a folder, through links to folders too; a folder that several links lead to counts once."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(here, name) for name in sorted(names))


_CURES = {
    errno.ENOENT: "no such file or folder; check the path, or make the file first",
    errno.EISDIR: "this is a folder; name a file",
    errno.EEXIST: "this is a file where a folder is needed; name a folder, or move the file away",
    errno.ENOTDIR: "a part of this path is a file where a folder is needed; name another path, or move the file away",
    errno.EACCES: "no permission; change the rights of the file, or name another path",
    errno.EROFS: "cannot be written to; name a path on another disk",
    errno.ENOSPC: "no space left on this disk; free some, `sedflow doctor` says how much there is",
}


def explain(error: OSError) -> str:
    """What went wrong with which file, and the cure, where it is a file that went wrong."""
    cure = _CURES.get(error.errno)
    if cure and error.filename:
        return f"{error.filename}: {cure}"
    return cure if error.errno == errno.ENOSPC else str(error)  # which write found the disk full, nobody says


def is_ours(error: OSError) -> bool:
    """Whether a file or disk of ours is to blame, not what was read from the net or from an archive."""
    return error.errno in _CURES
