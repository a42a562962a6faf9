"""Recordings in the user's folder: which files the tables refer to, and a check that splits share none."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sedflow import audio
from sedflow.events import LabelError, clip_id
from sedflow.params import split_of

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a recording is named: the ``source`` it is of and the file name of its ``table``."""

    source: str
    table: str


def listing(folder: Path) -> dict[str, list[Path]]:
    """Recordings anywhere below a folder: name without suffix → its files, of which there should be one."""
    paths: dict[str, list[Path]] = {}
    for path in audio.recordings(folder):
        if path.is_file():
            if {"\t", "\n", "\r"} & set(path.name) or clip_id(path.name) != clip_id(path.name).strip():
                raise LabelError(f"{str(path)!r}: a tab, line break or blank at an end in a file name; rename it")
            paths.setdefault(clip_id(path.name), []).append(path)
    return paths


def choose(folder: Path, named: Mapping[str, Place], allow_missing: int) -> dict[str, Path]:
    """The file of each recording that the tables name; files that none names are warned of.

    Raises
    ------
    LabelError    more recordings absent than allowed, with names that may be meant, or two files of one name
    """
    paths = listing(folder)
    absent = [clip for clip in named if clip not in paths]
    stray = sorted(set(paths) - set(named))
    if len(absent) > allow_missing:
        spare = {clip.casefold(): clip for clip in stray}
        listed = "\n  ".join(_absent(clip, named[clip].table, spare) for clip in absent[:20])
        raise LabelError(
            f"{folder}: {len(absent)} recordings are listed in a table but missing from the folder, the settings allow "
            f"{allow_missing}:\n  {listed}\nAdd them, delete their rows, or raise allow_missing"
        )
    if absent:
        log.warning("continuing without %d recordings: %s", len(absent), ", ".join(sorted(absent)))
    found = [clip for clip in named if clip in paths]
    if twice := [clip for clip in found if len(paths[clip]) > 1]:
        raise LabelError(
            f"{folder}: two files with the same name, so labels cannot tell them apart: "
            + "; ".join(" and ".join(str(path) for path in paths[clip]) for clip in twice[:10])
            + "; rename one of each"
        )
    if stray:
        log.warning("%s: %d recordings are left out because no table lists them: %s", folder, len(stray), stray[:3])
    return {clip: paths[clip][0] for clip in found}


def check_splits(paths: Mapping[str, Path], named: Mapping[str, Place], sums: Mapping[str, str]) -> None:
    """Refuse files of equal content, other than digital silence, in two of training, validation and test.

    Clips do not tell: recordings of test stay whole, those of the others are cut.

    Parameters
    ----------
    paths, named, sums : by recording: its file, where it is named, and the sha256 of the file
    """
    first: dict[str, str] = {}
    shared = []
    for clip, digest in sums.items():
        other = first.setdefault(digest, clip)
        if split_of(named[clip].source) != split_of(named[other].source) and not audio.silent(paths[clip]):
            shared.append(" and ".join(f"{paths[one]} ({', '.join(named[one])})" for one in (other, clip)))
    if shared:
        listed = "\n  ".join(shared[:20])
        raise LabelError(
            f"{len(shared)} pairs of files hold the same recording, though training, validation and test may share "
            f"none:\n  {listed}\nDelete one of each pair with its rows; two in the same table may stay if a "
            "column `recording` gives both the same name"
        )


def _absent(clip: str, table: str, spare: Mapping[str, str]) -> str:
    """A recording that is not there, the table that names it, and what it may be called."""
    close = difflib.get_close_matches(clip.casefold(), spare, n=1)
    return f"{clip} ({table})" + (f", but there is {spare[close[0]]}" if close else "")
