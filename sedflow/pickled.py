"""What a pickle would call, read off its instructions without executing them."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
import zlib
from pathlib import Path

# what torch.load reads of its own accord: storages, types, and the functions that put tensors together
_OF_TENSORS = re.compile(
    r"torch\.\w+|torch\._utils\._rebuild\w*|torch\._tensor\.\w+|torch\.nn\.parameter\.(Buffer|Parameter)"
    r"|collections\.(OrderedDict|Counter|defaultdict)|argparse\.Namespace|_codecs\.encode|builtins\.(set|bytearray)"
)

# what reading any bytes as an archive or a pickle may raise
_DAMAGE = (ValueError, LookupError, OverflowError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)


def archived(path: Path) -> list[str] | None:
    """Names of the files in a zip archive, or None for what is no whole archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except _DAMAGE:
        return None


def is_pickle(path: Path) -> bool:
    """Whether a file begins with a whole pickle."""
    try:
        return sum(1 for _ in pickletools.genops(path.read_bytes())) > 2
    except _DAMAGE:
        return False


def called_by(path: Path) -> list[str]:
    """Functions and classes that reading a file would call, beside those that tensors need; each once.

    Parameters
    ----------
    path : Path    what ``torch.save`` or ``pickle.dump`` wrote, in any protocol; damaged ones name nothing
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    except _DAMAGE:
        pickles = [path.read_bytes()]
    names = [name for content in pickles for name in _names(io.BytesIO(content))]
    return [name for name in dict.fromkeys(names) if not _OF_TENSORS.fullmatch(name)]


def _names(stream: io.BytesIO) -> list[str]:
    """Of all consecutive pickles at the start of a stream."""
    names = []
    while True:
        whole = []
        try:
            whole.extend(_names_of_one(stream))
        except _DAMAGE:  # no pickle, or no more of them
            return names
        names += whole


def _names_of_one(stream: io.BytesIO):
    memo, pushed = {}, ["", ""]
    last = None  # what lies on top, if it is a string
    for code, argument, _ in pickletools.genops(stream):
        if code.name in ("GLOBAL", "INST"):
            yield _dotted(*argument.split(" ", 1))
        elif code.name == "STACK_GLOBAL":
            yield _dotted(*pushed[-2:])
        elif code.name == "MEMOIZE":
            memo[len(memo)] = last
            continue
        elif "PUT" in code.name:
            memo[argument] = last
            continue
        elif "GET" in code.name:
            argument = memo.get(argument)
        last = argument if isinstance(argument, str) else None
        pushed += [last] if last is not None else []


def _dotted(module: str, name: str) -> str:
    return f"{module.replace('__builtin__', 'builtins')}.{name}"
