"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def replacing(path) -> Iterator[Path]:
    """A name beside ``path`` to write to, moved there at the end; an error leaves the old file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    yield unfinished
    unfinished.replace(path)


def write_text(path, text: str) -> None:
    """Write a text file whole."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path, content: Mapping) -> None:
    """Write sorted JSON whole."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
