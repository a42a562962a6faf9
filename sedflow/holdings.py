"""Recordings that lie in folders of the user's: found by name, missing ones counted and listed, the rest inventoried.

Some corpora may not be passed on, and videos vanish from the net, so nobody's copy is complete. What is missing is
said, and training goes on without it only where the settings allow that many.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sedflow import audio
from sedflow.download import DownloadError
from sedflow.events import AUDIO_SUFFIXES, clip_id, read_table, write_table

_VIDEO = re.compile(r"Y?(?P<id>[\w-]{11})(_[\d.]+){0,2}")
COLUMNS = ("path", "sha256", "bytes", "set", "clip")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Holding:
    """A recording on disk: ``clip`` as the tables of its ``set`` call it."""

    path: Path
    set: str
    clip: str


def find(wanted: Mapping[str, Iterable[str]], folders: Mapping[str, Sequence[Path]], key=str):
    """Look recordings up by name, in any sub-folder and audio format.

    Parameters
    ----------
    wanted : mapping    set → clips
    folders : mapping    set → folders, the preferred one first
    key : callable    what counts of a name, e.g. `video`

    Returns
    -------
    found : list of Holding
    missing : dict    set → clips
    """
    listings: dict[Path, dict[str, Path]] = {}
    found, missing = [], defaultdict(list)
    for name, clips in wanted.items():
        for folder in folders[name]:
            if folder not in listings:
                listings[folder] = listing(folder, key)
        for clip in clips:
            paths = (listings[folder].get(key(clip)) for folder in folders[name])
            path = next(filter(None, paths), None)
            if path is None:
                missing[name].append(clip)
            else:
                found.append(Holding(path, name, clip))
    return found, dict(missing)


def write_inventory(
    raw: Path, found: Sequence[Holding], missing: Mapping[str, Sequence[str]], allow_missing: int, cure: str
) -> None:
    """List the recordings in ``raw/files.tsv`` with their sums, and the missing ones in ``raw/missing.tsv``.

    Raises
    ------
    DownloadError    more are missing than the settings allow; with counts by set, names and ``cure``
    """
    rows = [(name, clip) for name, clips in sorted(missing.items()) for clip in sorted(clips)]
    write_table(raw / "missing.tsv", ("set", "clip"), rows)
    counts = ", ".join(f"{len(clips)} of {name}" for name, clips in sorted(missing.items()))
    if len(rows) > allow_missing:
        listed = "\n  ".join([f"{clip} ({name})" for name, clip in rows[:20]] + ["…"] * (len(rows) > 20))
        raise DownloadError(
            f"{len(rows)} of {len(rows) + len(found)} recordings are missing ({counts}), the settings allow "
            f"{allow_missing}; all of them stand in {raw / 'missing.tsv'}:\n  {listed}\n{cure}, or raise allow_missing"
        )
    if rows:
        log.warning("going on without %d recordings (%s), see %s", len(rows), counts, raw / "missing.tsv")
    ordered = sorted(found, key=lambda holding: (holding.set, holding.clip))
    table = [(h.path, audio.sha256(h.path), h.path.stat().st_size, h.set, h.clip) for h in ordered]
    write_table(raw / "files.tsv", COLUMNS, table)


def read_inventory(raw: Path) -> list[Holding]:
    """What `write_inventory` listed."""
    rows = read_table(raw / "files.tsv", COLUMNS)
    return [Holding(Path(row["path"]), row["set"], row["clip"]) for _, row in rows]


def excluded(table: str | None, corpus: str) -> set[str]:
    """The videos that the setting ``exclude`` of a corpus names."""
    if table is None:
        return set()
    if not Path(table).is_file():
        raise DownloadError(f"{table}: no such table; correct `exclude` of {corpus} or leave it out")
    return {video(clip_id(row["filename"])) for _, row in read_table(table, ("filename",))}


def video(clip: str) -> str:
    """The YouTube id in the name of a clip: ``Y<id>_<start>_<end>``, with or without Y and times; else the name."""
    parts = _VIDEO.fullmatch(clip)
    return parts["id"] if parts else clip


def listing(folder: Path, key=str) -> dict[str, Path]:
    """Recordings anywhere in a folder: what counts of a name → its file; of several the first in order of path."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    return {key(clip_id(path.name)): path for path in reversed(paths)}
