"""The allocator of long-running steps."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt's parameters, from glibc's malloc.h
_NEVER = -1


def keep_pages() -> bool:
    """Let this process keep the memory it frees, and say whether that could be arranged.

    By default glibc returns every large block to the system and gets it back page by page, zeroed, with the next
    tensor of that size: a quarter of a training step on a processor. What a step peaks at stays the same.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
