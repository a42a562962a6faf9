"""Loops over numbers that numba compiles, once per machine: its result is kept beside the module."""

from __future__ import annotations

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """A function of arrays and numbers, as vector code where its loops allow that.

    A product and its sum may be one instruction, and a division by zero is no exception; NaN and infinity keep their
    meaning.
    """
    return _compile(function, fastmath={"contract"})


def compiled_sum(function: Callable) -> Callable:
    """As `compiled`, and numbers may be added in another order."""
    return _compile(function, fastmath={"contract", "reassoc"})


def _compile(function, fastmath):
    settings = {"error_model": "numpy", "fastmath": fastmath}
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # neither the package's folder nor a home can be written to
        return numba.njit(**settings)(function)
