"""Raw files: from a mirror or else from their address, verified byte by byte, never left incomplete.

A mirror is the user's folder with the files under the corpora's own names (``SEDFLOW_MIRROR``); it is searched before a
connection is opened. A file takes its final name when it is complete and its sum is right, and ``files.tsv`` is
written last: a raw folder without it is unfinished.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.client
import logging
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from sedflow.events import read_table, write_table
from sedflow.files import is_ours, replacing, sha256
from sedflow.unpack import unpack

DATA = Path(__file__).resolve().parents[1] / "data"
SUM_COLUMNS = ("path", "sha256", "bytes")
_BLOCK = 1 << 20
_TRIES = 4
_TIMEOUT_SECONDS = 60

log = logging.getLogger(__name__)


class DownloadError(RuntimeError):
    """Files cannot be had or are not what they should be; the message names them and the cure."""


class _Interrupted(Exception):
    """The transfer broke off; trying again may help."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive on the internet: its ``url``, and the ``folder`` inside it that holds the files."""

    url: str
    folder: str = ""


def read_sums(path) -> list[dict[str, str]]:
    """Read a table of raw files: ``path sha256 bytes`` and whatever else it says about them."""
    return [row for _, row in read_table(path, SUM_COLUMNS)]


def fetch_files(
    rows: Sequence[Mapping[str, str]], raw: Path, archive: Archive, mirror: Path | None = None, allow_missing: int = 0
) -> None:
    """Bring files into ``raw`` and list them in ``raw/files.tsv``, with all that ``rows`` says about them.

    Parameters
    ----------
    rows : table of `read_sums`
    raw : Path    files that are already here and correct are kept
    archive : Archive    where the files are if the mirror lacks them
    mirror : folder with the same paths, optional
    allow_missing : int    go on without so many files

    Raises
    ------
    DownloadError    more files missing or wrong than allowed, by name
    """
    missing = {row["path"]: row for row in rows if not _is_right(raw / row["path"], row)}
    reasons = []
    if mirror is not None:
        missing = _take(missing, mirror, raw, reasons)
    if missing:
        try:
            missing = _take_from_archive(missing, archive, raw, reasons)
        except DownloadError as error:
            reasons.append(str(error))
    if len(missing) > allow_missing:
        listed = "\n  ".join([*list(missing)[:20], *(["…"] if len(missing) > 20 else [])])
        raise DownloadError(
            f"{len(missing)} of {len(rows)} files are missing, the settings allow {allow_missing}:\n  {listed}\n"
            + "\n".join(reasons[:20])
            + f"\nPut them into a mirror under the same paths (searched: {mirror}) and set SEDFLOW_MIRROR, "
            "or raise allow_missing"
        )
    if missing:
        log.warning("continuing without %d of %d files: %s", len(missing), len(rows), ", ".join(missing))
    write_table(raw / "files.tsv", rows[0], [row.values() for row in rows if row["path"] not in missing])


def fetch(url: str, out: Path, expected_sha256: str | None = None, wait_seconds: float = 1.0) -> str:
    """Download one file, resuming an earlier attempt.

    Parameters
    ----------
    url : str    http or https
    out : Path    written as ``<out>.part`` until it is complete and right
    expected_sha256 : str, optional
    wait_seconds : float    before the second attempt; doubles with each further one

    Returns
    -------
    str    sha256 of the file

    Raises
    ------
    DownloadError    refused, not found, a web page instead of the file, broken off, or the wrong sum
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url}: only http and https addresses are downloaded")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".part")
    resumed = partial.is_file()
    for attempt in range(_TRIES):
        try:
            found = _transfer(url, partial)
            break
        except _Interrupted as error:
            reason = str(error)
            log.warning("%s: %s (attempt %d of %d)", url, reason, attempt + 1, _TRIES)
            if attempt < _TRIES - 1:
                time.sleep(wait_seconds * 2**attempt)
    else:
        raise DownloadError(f"{url}: {reason}; the part received is kept, repeat the command to resume")
    if expected_sha256 is not None and found != expected_sha256:
        partial.unlink()
        if resumed:  # the part may have been of another version
            return fetch(url, out, expected_sha256, wait_seconds)
        raise DownloadError(
            f"{url}: sha256 is {found}, expected {expected_sha256}; the file at this address has changed or was "
            "damaged on the way. Get the original from a mirror, or correct the sum if you trust the new file"
        )
    partial.replace(out)
    return found


def fetch_weights(name: str, out: Path, mirror: Path | None = None) -> str:
    """Bring official weights to ``out``.

    Where the catalogue knows no sum, the first download writes it to ``<out>.sha256``, and later ones from the same
    address are held to it.

    Parameters
    ----------
    name : str    entry of ``data/pretrained.yaml``
    out : Path
    mirror : folder with ``weights/<file>``, optional

    Returns
    -------
    str    sha256 of the file
    """
    catalogue = pretrained()
    if name not in catalogue:
        raise DownloadError(f"no pretrained weights {name!r} in data/pretrained.yaml; choose from {sorted(catalogue)}")
    entry = catalogue[name]
    record = out.with_name(out.name + ".sha256")
    recorded, address = [*(record.read_text(encoding="utf-8").split() if record.is_file() else []), None, None][:2]
    moved = address not in (None, entry["url"])
    expected = entry["sha256"] or (None if moved else recorded)
    found = sha256(out) if out.is_file() else None
    unverifiable = expected is None and moved
    if found is None or unverifiable or expected not in (None, found):
        if mirror is not None and (mirror / "weights" / entry["file"]).is_file():
            found = _copy(mirror / "weights" / entry["file"], out, expected)
        else:
            found = fetch(entry["url"], out, expected)
    if expected is None:
        record.write_text(f"{found} {entry['url']}\n", encoding="utf-8")
        log.warning("%s: no checksum is known yet; recorded sha256 %s in %s", name, found, record)
    return found


@functools.cache  # a plan of the workflow asks for every encoder of every page
def pretrained() -> dict[str, dict]:
    """The catalogue of official weights: name → file, url, sha256 (or None), licence."""
    import yaml

    releases = yaml.safe_load((DATA / "pretrained.yaml").read_text(encoding="utf-8"))
    return {
        name: {"file": file, "url": f"{release['url']}/{file}", "sha256": digest, "licence": release["licence"]}
        for release in releases
        for name, (file, digest) in release["weights"].items()
    }


def _is_right(path: Path, row) -> bool:
    return path.is_file() and path.stat().st_size == int(row["bytes"]) and sha256(path) == row["sha256"]


def _take(wanted: Mapping, folder: Path, raw: Path, reasons: list[str]) -> dict:
    """Copy what is right out of a folder; returns what is still missing."""
    missing = {}
    for path, row in wanted.items():
        try:
            _copy(folder / path, raw / path, row["sha256"])
        except FileNotFoundError:
            missing[path] = row
        except DownloadError as error:
            missing[path] = row
            reasons.append(str(error))
    return missing


def _take_from_archive(wanted: Mapping, archive: Archive, raw: Path, reasons: list[str]) -> dict:
    file, unpacked = raw / ".archive", raw / ".unpacked"
    fetch(archive.url, file)
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        unpack(file, unpacked)
        missing = _take(wanted, unpacked / archive.folder, raw, reasons)
    except ValueError as error:
        raise DownloadError(f"{archive.url}: {error}") from None
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
        file.unlink()
    return missing


def _copy(source: Path, target: Path, expected: str | None) -> str:
    found = sha256(source)
    if expected not in (None, found):
        raise DownloadError(f"{source}: sha256 is {found}, expected {expected}; replace the file")
    if target.is_symlink():
        target.unlink()  # what it leads to is somebody else's
    with replacing(target) as unfinished:
        shutil.copyfile(source, unfinished)
    return found


def _transfer(url: str, partial: Path) -> str:
    """Continue ``partial`` to its end; returns its sha256."""
    start = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            if start and answer.status != 206:
                start = 0  # the server starts over
            return _receive(url, answer, partial, start)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{start}":
            return sha256(partial)  # nothing was left to fetch
        if error.code == 416:
            partial.unlink()
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from None
        raise DownloadError(
            f"{url}: the server answered {error.code} {error.reason}; the address is dead or requires a login: "
            "download the file by hand and put it into a mirror"
        ) from None
    except (OSError, urllib.error.URLError) as error:
        if is_ours(error):
            raise
        raise _Interrupted(f"no connection ({getattr(error, 'reason', error)})") from None
    except http.client.HTTPException as error:  # an answer in chunks that ends within one, or is no HTTP
        raise _Interrupted(f"the response was cut off ({error!r})") from None


def _receive(url: str, answer, partial: Path, start: int) -> str:
    from tqdm import tqdm

    if answer.headers.get_content_type() == "text/html":
        raise DownloadError(
            f"{url}: received a web page instead of the file (a login or consent page?); download it by hand"
        )
    length = answer.headers.get("Content-Length")
    end = start + int(length) if length else None
    free = shutil.disk_usage(partial.parent).free
    if end is not None and end - start > free:
        raise DownloadError(f"{url}: needs {end - start} bytes, {partial.parent} has {free} free; make room")
    digest, size = hashlib.sha256(), start
    if start:
        with partial.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    title = url.rsplit("/", 1)[-1]
    bar = tqdm(desc=title, total=end, initial=start, unit="B", unit_scale=True, disable=None)
    with partial.open("ab" if start else "wb") as file, bar:
        while block := answer.read(_BLOCK):
            file.write(block)
            digest.update(block)
            size += len(block)
            bar.update(len(block))
    if end is not None and size != end:
        raise _Interrupted(f"the connection ended after {size} of {end} bytes")
    return digest.hexdigest()
