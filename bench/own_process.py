"""A candidate in a process of its own: how memory is handled is a process' choice."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from typing import Any

from sedflow.memory import keep_pages

SPAWN = multiprocessing.get_context("spawn")


class OwnProcess:
    """What ``build(*arguments)`` returns, called in another process.

    Parameters
    ----------
    build : function of a module    → a function without arguments
    keeps_pages : bool    as our commands do; otherwise memory is handled as the C library does by itself
    """

    def __init__(self, build: Callable[..., Callable[[], Any]], *arguments: Any, keeps_pages: bool):
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(theirs, build, arguments, keeps_pages), daemon=True)
        self.process.start()
        theirs.close()

    def __call__(self) -> Any:
        """Call it once; returns its result."""
        self.pipe.send("call")
        return self.pipe.recv()

    def end(self) -> None:
        """Let the process come to its end."""
        self.pipe.close()
        self.process.join()


def _serve(pipe, build, arguments, keeps_pages):
    if keeps_pages:
        keep_pages()
    call = build(*arguments)
    with contextlib.suppress(EOFError):
        while pipe.recv():
            pipe.send(call())
