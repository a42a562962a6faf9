"""Files of a Zenodo record, verified against the sums that Zenodo publishes, and unpacked once."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from sedflow.download import DownloadError, fetch
from sedflow.files import replacing
from sedflow.unpack import ArchiveError, unpack

RECORDS = "https://zenodo.org/api/records"

log = logging.getLogger(__name__)


def fetch_record(record: int, key: str, folder: Path, places: Sequence[Path] = ()) -> Path:
    """Bring a file of a record to ``folder/<record>``, unless it is in one of the ``places`` already.

    A file next to it holds the expected sum; a file that is present and right is kept without a connection.

    Parameters
    ----------
    record : int    the number in the record's address
    key : str    name of the file there, or a pattern that fits one
    folder : Path
    places : sequence of Path    folders of the user's or of a mirror; their files are taken as they are

    Returns
    -------
    Path    the file

    Raises
    ------
    DownloadError    no connection, no such file in the record, or not the sum that the record says
    """
    for known in sorted((folder / str(record)).glob(f"{key}.complete")):
        out = known.with_suffix("")
        if out.is_file() and _is_right(out, known.read_text(encoding="utf-8").strip()):
            return out
    given = [path for place in places for path in sorted(place.glob(key)) if path.is_file()]
    if given:
        return given[0]
    try:
        return _fetch(record, key, folder)
    except DownloadError as error:
        place = places[0] if places else "the folder of this corpus in a mirror and set SEDFLOW_MIRROR to the mirror"
        raise DownloadError(f"{error}; or put {key} of zenodo.org/records/{record} into {place}") from None


def _fetch(record: int, key: str, folder: Path) -> Path:
    """Download a file of a record, if it is not there and right."""
    entries = {entry["key"]: entry for entry in _listing(record, folder)}
    fitting = fnmatch.filter(entries, key)
    if len(fitting) != 1:
        raise DownloadError(f"{RECORDS}/{record}: {len(fitting)} files {key!r} in the record, it has {sorted(entries)}")
    key = fitting[0]
    out = folder / str(record) / key
    checksum = entries[key]["checksum"]
    if not (out.is_file() and _is_right(out, checksum)):
        fetch(entries[key]["links"]["self"], out)
        if not _is_right(out, checksum):
            found = _checksum(out, checksum)
            out.unlink()
            raise DownloadError(
                f"{record}/{key}: its checksum is {found}, the record says {checksum}; it was damaged in transit, "
                "repeat the command"
            )
    with replacing(_complete(out)) as unfinished:
        unfinished.write_text(f"{checksum}\n", encoding="utf-8")
    return out


def unpacked(record: int, key: str, folder: Path, places: Sequence[Path] = ()) -> Path:
    """Folder with the content of a record's archive, fetched and unpacked unless it was before.

    A fetched archive is deleted when all of its files are there, which a file next to them records; one in ``places``
    stays.
    """
    content = folder / str(record) / key.partition(".")[0].strip("*")
    done = _complete(content)
    if not done.is_file():
        archive = fetch_record(record, key, folder, places)
        try:
            unpack(archive, content)
        except ArchiveError as error:
            raise DownloadError(f"{archive}: {error}") from None
        done.write_text(f"{key}\n", encoding="utf-8")
        if _complete(archive).is_file():
            archive.unlink()
            _complete(archive).unlink()
    return content


def _listing(record: int, folder: Path) -> list[dict]:
    """What the record holds: name, sum and address of each file."""
    answer = folder / str(record) / ".record.json"
    answer.unlink(missing_ok=True)  # an address in an old answer may be dead
    fetch(f"{RECORDS}/{record}", answer)
    try:
        return json.loads(answer.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError):
        raise DownloadError(f"{RECORDS}/{record}: not the description of a record; is it public?") from None


def _complete(path: Path) -> Path:
    """The file that says that another one, or a folder, is all there."""
    return path.with_name(path.name + ".complete")


def _is_right(path: Path, checksum: str) -> bool:
    return _checksum(path, checksum) == checksum


def _checksum(path: Path, like: str) -> str:
    """Sum of a file, written as Zenodo does and by the algorithm that it names: ``md5:…``."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
