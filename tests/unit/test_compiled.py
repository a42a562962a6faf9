"""Compiled loops need no folder that can be written to."""

import numpy as np
import pytest
from numba.core import caching

from sedflow.compiled import compiled, compiled_sum


def doubled(numbers):
    for k in range(len(numbers)):
        numbers[k] *= 2


def test_a_function_is_compiled_where_nothing_can_be_kept(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    numbers = np.arange(5, dtype=np.float32)
    compiled(doubled)(numbers)
    assert numbers.tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("how", [compiled, compiled_sum])
def test_what_is_not_a_number_or_infinite_stays_so(how):
    numbers = np.array([np.nan, np.inf, -np.inf, 1.0], dtype=np.float32)
    how(doubled)(numbers)
    np.testing.assert_array_equal(numbers, np.array([np.nan, np.inf, -np.inf, 2.0], dtype=np.float32))


def test_a_division_by_zero_is_no_exception():
    @compiled
    def inverse(number):
        return np.float32(1) / number

    assert inverse(np.float32(0)) == np.inf
