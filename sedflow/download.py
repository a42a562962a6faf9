"""Raw files: from a mirror or else from their address, verified byte by byte, never half there.

A mirror is a folder of the user's, laid out as the corpora name it (``SEDFLOW_MIRROR``); it is asked before a
connection is opened. A file takes its final name when its sum is right, and ``files.tsv`` is written last: a raw
folder without it is unfinished.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from sedflow.audio import sha256
from sedflow.events import read_table, write_table

DATA = Path(__file__).resolve().parents[1] / "data"
SUMS = ("path", "sha256", "bytes")

log = logging.getLogger(__name__)


class DownloadError(RuntimeError):
    """Files cannot be had or are not what they should be; the message names them and the cure."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive on the net: ``url``, and the ``folder`` inside it that holds the files."""

    url: str
    folder: str = ""


def read_sums(path) -> list[dict[str, str]]:
    """Read a table of raw files: ``path sha256 bytes`` and whatever else it says about them."""
    return [row for _, row in read_table(path, SUMS)]


def fetch_files(
    rows: Sequence[Mapping[str, str]], raw: Path, archive: Archive, mirror: Path | None = None, allow_missing: int = 0
) -> None:
    """Bring files into ``raw``.

    Parameters
    ----------
    rows : table of `read_sums`
    raw : Path
    archive : Archive    where the files are when the mirror has not got them
    mirror : folder with the same paths, optional
    allow_missing : int    go on without so many files

    Raises
    ------
    DownloadError    wrong sum, or more files missing than allowed (by name)
    """
    wanted = [row for row in rows if not _is(raw / row["path"], row)]
    for row in wanted:
        if mirror and (mirror / row["path"]).is_file():
            _copy(mirror / row["path"], raw / row["path"], row)
    missing = [row["path"] for row in rows if not _is(raw / row["path"], row)]
    if len(missing) > allow_missing:
        raise DownloadError(f"{len(missing)} of {len(rows)} files are missing: {missing[:20]}")
    write_table(raw / "files.tsv", rows[0], [row.values() for row in rows if row["path"] not in missing])


def _is(path: Path, row) -> bool:
    return path.is_file() and path.stat().st_size == int(row["bytes"]) and sha256(path) == row["sha256"]


def _copy(source: Path, target: Path, row) -> None:
    if sha256(source) != row["sha256"]:
        raise DownloadError(f"{source}: sha256 is {sha256(source)}, expected {row['sha256']}; replace the file in the mirror")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".part")
    shutil.copyfile(source, unfinished)
    unfinished.replace(target)
