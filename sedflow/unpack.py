"""Unpack foreign archives: nothing leaves the folder, nothing grows without end, nothing is a link."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from sedflow.files import is_ours, replacing

MOST_FILES = 1_000_000
MOST_BYTES = 200 << 30
_BLOCK = 1 << 20
# what reading a broken archive may raise; RuntimeError: locked with a password, or packed in an unknown way
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


class ArchiveError(ValueError):
    """An archive is broken or malicious; the message names the member."""


def unpack(archive: Path, out: Path, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES) -> list[Path]:
    """Unpack a zip or tar file.

    Parameters
    ----------
    archive : Path
    out : Path    created; each file is complete when it has its name
    most_bytes, most_files : int    counted while unpacking, because headers may be wrong

    Returns
    -------
    list of Path    the files written

    Raises
    ------
    ArchiveError    not an archive, truncated, locked, a path outside ``out``, a link or device, too large, too many
    OSError    the disk is full, or ``out`` cannot be written to
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                return _write(archive, out, _zip_members(archive, file), most_bytes, most_files)
        with tarfile.open(archive) as file:
            return _write(archive, out, _tar_members(archive, file), most_bytes, most_files)
    except _DAMAGE as error:
        if isinstance(error, OSError) and is_ours(error):
            raise
        reason = str(error).split("\n")[0].rstrip(":")
        raise ArchiveError(f"{archive.name}: not a complete zip or tar archive ({reason}); download it again") from None


def _zip_members(archive, file):
    for member in file.infolist():
        mode = member.external_attr >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{archive.name}: member {member.filename!r} is a link or a device; refusing to unpack")
        if not member.is_dir():
            yield member.filename, lambda member=member: file.open(member)


def _tar_members(archive, file):
    for member in file:
        if not (member.isfile() or member.isdir()):
            raise ArchiveError(f"{archive.name}: member {member.name!r} is a link or a device; refusing to unpack")
        if member.isfile():
            yield member.name, lambda member=member: file.extractfile(member)


def _write(archive: Path, out: Path, members, most_bytes: int, most_files: int) -> list[Path]:
    written: dict[Path, None] = {}  # in order, and quick to ask
    left = most_bytes
    for name, opened in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in name:
            raise ArchiveError(f"{archive.name}: member {name!r} points outside the folder; refusing to unpack")
        if len(written) >= most_files:
            raise ArchiveError(f"{archive.name}: more than {most_files} files; refusing to unpack")
        target = out.joinpath(*path.parts)
        if target in written:
            raise ArchiveError(f"{archive.name}: member {name!r} appears twice; refusing to unpack")
        with replacing(target) as unfinished, opened() as source, unfinished.open("wb") as file:
            left = _copy(archive, source, file, left, most_bytes)
        written[target] = None
    return list(written)


def _copy(archive: Path, source, file, left: int, most_bytes: int) -> int:
    while block := source.read(_BLOCK):
        left -= len(block)
        if left < 0:
            raise ArchiveError(f"{archive.name}: unpacks to more than {most_bytes} bytes; refusing to unpack")
        file.write(block)
    return left
