"""Recordings in the user's folders: found by name, missing ones counted and listed, the rest inventoried.

Some corpora may not be redistributed, and videos vanish from the internet, so no copy is complete. Recordings that are
missing or cannot be used are reported, and training continues without them only where the settings allow that many.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from sedflow import audio
from sedflow.download import DownloadError
from sedflow.events import END_SLACK_SECONDS, LabelError, clip_id, read_table, write_table
from sedflow.files import sha256
from sedflow.params import HELD_OUT

_VIDEO = re.compile(r"Y?(?P<id>[\w-]{11})(_(?P<start>\d+(\.\d+)?)([_-](?P<end>\d+(\.\d+)?))?)?")
LONGEST_SECONDS = 11.0  # of a segment of AudioSet: ten, and what encoders add
SHORTEST_MILLISECONDS = 100  # of a segment: times that differ by less are seconds
COLUMNS = ("path", "sha256", "bytes", "set", "clip")

log = logging.getLogger(__name__)


Keys = Callable[[str], Sequence[Hashable]]
Missing = dict[str, dict[str, str]]  # set → clip → why, nothing if it was not found


@dataclasses.dataclass(frozen=True)
class Holding:
    """A recording on disk: ``clip`` as the tables of its ``set`` call it."""

    path: Path
    set: str
    clip: str


@dataclasses.dataclass(frozen=True)
class Allowance:
    """How many recordings may be absent.

    Parameters
    ----------
    missing : int, or dict set → int    a plain number is for all sets that train together, and for no others
    sources : mapping    set → its source
    """

    missing: int | Mapping[str, int]
    sources: Mapping[str, str]

    def __post_init__(self):
        strangers = sorted(set(self.missing) - set(self.sources)) if isinstance(self.missing, Mapping) else []
        if strangers:
            raise LabelError(f"allow_missing: no set {strangers[0]!r}; choose from {sorted(self.sources)}")

    def exceeded(self, missing: Mapping[str, int]) -> str:
        """How to allow that many missing recordings in these sets, if the settings do not."""
        if isinstance(self.missing, Mapping):
            lacking = any(count > self.missing.get(name, 0) for name, count in missing.items())
            return "raise allow_missing" if lacking else ""
        if any(count and self.sources[name] in HELD_OUT for name, count in missing.items()):
            sets = ", ".join(f"{name}: {missing[name]}" for name in sorted(missing))
            return f"allow that by set, `allow_missing: {{{sets}}}`: a number is for training alone"
        return "raise allow_missing" if sum(missing.values()) > self.missing else ""


def _itself(name: str) -> list[str]:
    return [name]


def find(
    wanted: Mapping[str, Iterable[str]],
    folders: Mapping[str, Sequence[Path]],
    sought: Keys = _itself,
    told: Keys = _itself,
) -> tuple[list[Holding], Missing]:
    """Look recordings up by name, in any sub-folder and audio format.

    Parameters
    ----------
    wanted : mapping    set → clips
    folders : mapping    set → folders, the preferred one first
    sought : callable    clip → the keys to look it up by, best first, e.g. `sought_segment`
    told : callable    name of a file → the keys that match it, e.g. `told_segments`

    Returns
    -------
    found : list of Holding
    missing : dict    set → clip → why, here nothing
    """
    listings: dict[Path, dict[Hashable, Path]] = {}
    found, missing = [], defaultdict(dict)
    for name, clips in wanted.items():
        for folder in folders[name]:
            if folder not in listings:
                listings[folder] = listing(folder, told)
        for clip in clips:
            paths = (listings[folder].get(key) for key in sought(clip) for folder in folders[name])
            path = next(filter(None, paths), None)
            if path is None:
                missing[name][clip] = ""
            else:
                found.append(Holding(path, name, clip))
    return found, dict(missing)


def write_holdings(
    raw: Path,
    found: Sequence[Holding],
    missing: Missing,
    allowance: Allowance,
    cure: str,
    ends: Mapping[str, Mapping[str, float]],
) -> None:
    """List the recordings in ``raw/files.tsv`` with their sums, and in ``raw/missing.tsv`` those that cannot be used.

    Parameters
    ----------
    ends : mapping    set → clip → where its labels end, in seconds; a recording of validation or test that ends before
        is of no use, its truth would be cut

    Raises
    ------
    DownloadError    more are missing than the settings allow; with counts by set, names, reasons and ``cure``
    """
    missing = _with_unusable(found, missing, ends, allowance.sources)
    rows = [(name, *clip) for name, clips in sorted(missing.items()) for clip in sorted(clips.items())]
    write_table(raw / "missing.tsv", ("set", "clip", "reason"), [(*row[:2], row[2] or "not found") for row in rows])
    counts = ", ".join(f"{len(clips)} of {name}" for name, clips in sorted(missing.items()))
    usable = [holding for holding in found if holding.clip not in missing.get(holding.set, ())]
    if way_out := allowance.exceeded({name: len(clips) for name, clips in missing.items()}):
        shown = sorted(rows, key=lambda row: not row[2])[:20]  # those that are there, but of no use, first
        listed = [f"{clip} ({name})" + (f": {why}" if why else "") for name, clip, why in shown]
        what = "missing or cannot be used" if any(why for *_, why in rows) else "missing"
        raise DownloadError(
            f"{len(rows)} of {len(rows) + len(usable)} recordings are {what} ({counts}), the settings allow "
            f"{allowance.missing}; all of them are listed in {raw / 'missing.tsv'}:\n  "
            + "\n  ".join(listed + ["…"] * (len(rows) > 20))
            + f"\n{cure}, or {way_out}"
        )
    if rows:
        log.warning("continuing without %d recordings (%s), see %s", len(rows), counts, raw / "missing.tsv")
    ordered = sorted(usable, key=lambda holding: (holding.set, holding.clip))
    table = [(h.path, sha256(h.path), h.path.stat().st_size, h.set, h.clip) for h in ordered]
    write_table(raw / "files.tsv", COLUMNS, table)


def _with_unusable(found: Iterable[Holding], missing: Missing, ends, sources: Mapping[str, str]) -> Missing:
    """What is missing, and of what was found the files that cannot be read or, held out, end before their labels."""
    missing = defaultdict(dict, {name: dict(clips) for name, clips in missing.items()})
    early = defaultdict(list)
    for holding in found:
        try:
            seconds = audio.info(holding.path).seconds
        except audio.AudioError as error:
            missing[holding.set][holding.clip] = str(error)
            continue
        end = ends.get(holding.set, {}).get(holding.clip, 0.0)
        if end <= seconds + END_SLACK_SECONDS:
            continue
        if sources[holding.set] in HELD_OUT:
            missing[holding.set][holding.clip] = f"{holding.path} ends at {seconds:.2f} s, its labels at {end:.2f} s"
        else:
            early[holding.set].append(holding.clip)
    for name, clips in early.items():
        log.warning("%s: %d recordings end before their labels, which are cut: %s", name, len(clips), clips[:3])
    return missing


def read_holdings(raw: Path) -> list[Holding]:
    """What `write_holdings` listed."""
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


def told_videos(name: str) -> list[str]:
    """The video that a file's name gives, if it gives one."""
    parts = _VIDEO.fullmatch(name)
    return [parts["id"]] if parts else []


def told_segments(name: str) -> list[tuple[str, int | None]]:
    """Video and start in milliseconds as a file's name gives them; None if it gives no start.

    ``<id>_30000``, ``<id>_30000_40000``, ``<id>_30_40``, ``<id>_30.000_40.000`` and ``<id>_30.0-40.0`` start at 30 s;
    of a lone number without decimals both readings count.
    """
    parts = _VIDEO.fullmatch(name)
    if parts is None or parts["start"] is None:
        return [(video(name), None)]
    start, end = parts["start"], parts["end"]
    in_seconds, in_milliseconds = (parts["id"], round(1000 * float(start))), (parts["id"], round(float(start)))
    if "." in start + (end or "") or (end and float(end) - float(start) < SHORTEST_MILLISECONDS):
        return [in_seconds]
    return [in_milliseconds] if end else [in_milliseconds, in_seconds]


def sought_segment(clip: str, alone: bool = True) -> list[tuple[str, int | None]]:
    """The keys of AudioSet's segment ``<id>_<milliseconds>``; a file without a start will do if no other claims it."""
    own = told_segments(clip)[0]
    return [own, (own[0], None)] if alone else [own]


def listing(folder: Path, told: Keys = _itself) -> dict[Hashable, Path]:
    """Recordings anywhere in a folder: what their names tell → the file.

    Of several the first in order of path, those last that libsndfile cannot read.
    """
    paths = sorted(audio.recordings(folder), key=lambda path: (path.suffix.lower() == ".m4a", path))
    return {key: path for path in reversed(paths) for key in told(clip_id(path.name))}


def check_cut(found: Iterable[Holding]) -> None:
    """Refuse whole videos: labels count from the start of a segment.

    Raises
    ------
    DownloadError    recordings longer than a segment whose names give no start
    """
    starts = {holding.path: told_segments(clip_id(holding.path.name))[0][1] for holding in found}
    whole = [path for path, start in starts.items() if start is None and _seconds(path) > LONGEST_SECONDS]
    if whole:
        listed = "\n  ".join(map(str, whole[:20]))
        raise DownloadError(
            f"{len(whole)} recordings are longer than {LONGEST_SECONDS:g} s, and their names give no start: they are "
            f"whole videos, of which the labels cover only ten seconds:\n  {listed}\nCut them to their segments "
            "(`ffmpeg -ss 30 -t 10 -i in.wav out.wav` for <id>_30000)"
        )


def _seconds(path: Path) -> float:
    """Length of a recording; 0 of a file that cannot be read, which `write_holdings` names."""
    try:
        return audio.info(path).seconds
    except audio.AudioError:
        return 0.0
