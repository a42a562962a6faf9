"""Progress bars, on the standard error: what a command prints can be piped."""

from __future__ import annotations

from collections.abc import Iterable


def track(things: Iterable, title: str, total: int | None = None) -> Iterable:
    """The things, with a bar that says how many of them are done."""
    from rich import progress
    from rich.console import Console

    return progress.track(things, title, total, console=Console(stderr=True))
