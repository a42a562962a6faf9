"""Passes over bfloat16 numbers on one core, compiled: softmax with a gated bias, and layer norm of a sum.

PyTorch makes several passes of each and widens numbers in memory; here a row stays in the nearest cache, in float32,
from the first operation to the last. Numba has no bfloat16: a number is its 16 bits, the upper half of a float32.
`numbers`, `read` and `write` are for loops over either.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from sedflow.compiled import compiled, compiled_sum

_HALF = np.float32(0.5)
_LOG2_E = np.float32(1.44269504)
_LEAST = np.int32(-(2**31))
_LOWEST = np.float32(-87)  # whose exponential is the smallest float32 but for denormal ones
# 2 ** x for x from -1/2 to 1/2, within 2e-7
_POWERS = tuple(np.float32(value) for value in (1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 0.24022651, 0.69314718, 1))


def softmax_(scores: Tensor, scale: float, bias: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
    """Softmax over the last axis of scores · scale + gate · bias, in place.

    Parameters
    ----------
    scores : (batch, heads, queries, keys) bfloat16, contiguous
    scale : float
    bias : broadcast over (batch, heads, queries, keys) bfloat16, optional
    gate : broadcast over (batch, heads, queries, 1), optional    how often the bias counts; once if there is none
    """
    scale = np.float32(scale)
    if bias is None:
        _softmax(_bits(scores.flatten(0, 2)), scale)
        return scores
    gate = torch.ones(1) if gate is None else gate.float()
    bias, gate = bias.expand(scores.shape), gate.expand(*scores.shape[:3], 1)
    for rows, added, times in zip(scores.flatten(1, 2), bias, gate.flatten(1).contiguous(), strict=True):
        _biased_softmax(_bits(rows), scale, _bits(added.flatten(0, 1)), times.numpy())
    return scores


def norm_of_sum(
    tokens: Tensor, others: Tensor | None, scale: float, weight: Tensor, bias: Tensor, epsilon: float
) -> Tensor:
    """Layer norm over the last axis of tokens + scale · others, all (…, dim) or (dim,) bfloat16."""
    scale, others = (scale, others) if others is not None else (0.0, tokens)
    normed = torch.empty(tokens.shape, dtype=tokens.dtype)
    rows = [_bits(part.flatten(0, -2)) for part in (tokens, others, normed)]
    _norm(*rows, np.float32(scale), _bits(weight), _bits(bias), np.float32(epsilon))
    return normed


def numbers(values: Tensor) -> np.ndarray:
    """A float32 tensor as an array, or the bits of a bfloat16 one; they share memory."""
    return (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()


def read(array, k):
    """``array[k]`` of `numbers` as a float32, in compiled loops."""
    return _wide(array[k]) if array.dtype == np.uint16 else array[k]


def write(array, k, value):
    """Set ``array[k]`` of `numbers`, in compiled loops."""
    array[k] = _narrow(value) if array.dtype == np.uint16 else value


@overload(read)
def _compiled_read(array, k):
    if array.dtype == types.uint16:
        return lambda array, k: _wide(array[k])
    return lambda array, k: array[k]


@overload(write)
def _compiled_write(array, k, value):
    def bits(array, k, value):
        array[k] = _narrow(value)

    def plain(array, k, value):
        array[k] = value

    return bits if array.dtype == types.uint16 else plain


def _bits(values: Tensor) -> np.ndarray:
    return numbers(values.detach().contiguous())


@compiled
def _wide(bits):
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@compiled
def _narrow(value):
    # to the nearest, of two equally near ones to the even one
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@compiled
def _exponential(x):
    """Of a float32 that is not positive, within 3e-7 of it; 0 below -87."""
    halves = x * _LOG2_E
    whole = np.floor(halves + _HALF)
    part = halves - whole
    power = _POWERS[0]
    for coefficient in _POWERS[1:]:
        power = power * part + coefficient
    exponent = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(0) if x < _LOWEST else power * exponent


@compiled
def _softmax(scores, scale):
    row = np.empty(scores.shape[1], np.float32)
    for query in range(len(scores)):
        _weigh(row, _widen(scores[query], scale, row), scores[query])


@compiled
def _biased_softmax(scores, scale, bias, gate):
    row = np.empty(scores.shape[1], np.float32)
    for query in range(len(scores)):
        _weigh(row, _widen_biased(scores[query], scale, bias[query], gate[query], row), scores[query])


@compiled
def _norm(tokens, others, normed, scale, weight, bias, epsilon):
    dim = tokens.shape[1]
    row = np.empty(dim, np.float32)
    for k in range(len(tokens)):
        mean = _add(tokens[k], others[k], scale, row) / np.float32(dim)
        variance = _centre(row, mean) / np.float32(dim)
        _rescale(row, np.float32(1) / np.sqrt(variance + epsilon), weight, bias, normed[k])


# Loops over a row. Each is a function of its own, otherwise the compiler makes no vector code of them. The largest
# number is found among whole numbers: of those the compiler finds it in vectors.


@compiled
def _widen(scores, scale, row):
    """Scaled scores, and the largest of them."""
    largest = _LEAST
    for k in range(len(row)):
        row[k] = value = _wide(scores[k]) * scale
        place = _ordered(np.float32(value).view(np.int32))
        largest = place if place > largest else largest
    return np.int32(_ordered(largest)).view(np.float32)


@compiled
def _widen_biased(scores, scale, bias, gate, row):
    """Scaled scores with their bias, and the largest of them."""
    largest = _LEAST
    for k in range(len(row)):
        row[k] = value = _wide(scores[k]) * scale + gate * _wide(bias[k])
        place = _ordered(np.float32(value).view(np.int32))
        largest = place if place > largest else largest
    return np.int32(_ordered(largest)).view(np.float32)


@compiled
def _ordered(bits):
    """Bits of a float32 → a whole number of the same order among its like; and back."""
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@compiled
def _weigh(row, largest, weights):
    """Softmax of ``row``, which is overwritten."""
    _rounded(row, np.float32(1) / _exponentials(row, largest), weights)


@compiled_sum
def _exponentials(row, largest):
    """Exponentials in place of a row, and their sum."""
    total = np.float32(0)
    for k in range(len(row)):
        row[k] = value = _exponential(row[k] - largest)
        total += value
    return total


@compiled
def _rounded(row, factor, bits):
    for k in range(len(row)):
        bits[k] = _narrow(row[k] * factor)


@compiled_sum
def _add(tokens, others, scale, row):
    """Tokens + scale · others, and the sum over the row."""
    total = np.float32(0)
    for k in range(len(row)):
        row[k] = value = _wide(tokens[k]) + scale * _wide(others[k])
        total += value
    return total


@compiled_sum
def _centre(row, mean):
    """A row less its mean, and the sum of the squares."""
    total = np.float32(0)
    for k in range(len(row)):
        row[k] = value = row[k] - mean
        total += value * value
    return total


@compiled
def _rescale(row, factor, weight, bias, bits):
    for k in range(len(row)):
        bits[k] = _narrow(row[k] * factor * _wide(weight[k]) + _wide(bias[k]))
