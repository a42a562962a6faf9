"""A frame of a gated recurrent unit, compiled: everything but the product with the state.

A frame takes a dozen operations forwards and two dozen backwards. As tensors each is a call and a pass over memory;
here all of them are one pass.
"""

from __future__ import annotations

import numpy as np

from sedflow.compiled import compiled

_HALF, _ONE = np.float32(0.5), np.float32(1)
_SATURATED = np.float32(7.9)


@compiled
def tanh(x):
    """Hyperbolic tangent of a float32, within 4e-7; 1 and -1 beyond ±7.9.

    Source
    ------
    Eigen 3.4 MathFunctionsImpl.h, the coefficients of its rational approximation
    """
    square = x * x
    odd = np.float32(-2.76076847742355e-16)
    odd = odd * square + np.float32(2.00018790482477e-13)
    odd = odd * square + np.float32(-8.60467152213735e-11)
    odd = odd * square + np.float32(5.12229709037114e-08)
    odd = odd * square + np.float32(1.48572235717979e-05)
    odd = odd * square + np.float32(6.37261928875436e-04)
    odd = odd * square + np.float32(4.89352455891786e-03)
    even = np.float32(1.19825839466702e-06)
    even = even * square + np.float32(1.18534705686654e-04)
    even = even * square + np.float32(2.26843463243900e-03)
    even = even * square + np.float32(4.89352518554385e-03)
    return _ONE if x > _SATURATED else (-_ONE if x < -_SATURATED else x * odd / even)


@compiled
def sigmoid(x):
    """Logistic function of a float32, within 2e-7; 0 and 1 beyond ±15.8."""
    return _HALF + _HALF * tanh(_HALF * x)


@compiled
def forwards(given, product, bias, before, opened, recalled, after):
    """Open the gates of a frame and step its state.

    Reset and update gate are sigmoid(given + product + bias), the candidate is tanh(given + reset · recalled) with
    recalled = product + bias, and the new state is candidate + update · (before − candidate).

    Parameters
    ----------
    given, product : (batch, 3 · width) float32    what input and state send to reset, update and candidate
    bias : (3 · width,) float32    of the product
    before : (batch, width) float32    the state
    opened : (batch, 3 · width) float32    written: reset, update, candidate
    recalled : (batch, width) float32    written
    after : (batch, width) float32    written: the new state
    """
    for clip in range(len(before)):
        _clip_forwards(given[clip], product[clip], bias, before[clip], opened[clip], recalled[clip], after[clip])


@compiled
def _clip_forwards(given, product, bias, before, opened, recalled, after):
    # a function of its own, and names for the parts: otherwise the compiler makes no vector code of the loop
    width = len(before)
    given_reset, given_update, given_new = given[:width], given[width : 2 * width], given[2 * width :]
    to_reset, to_update, to_new = product[:width], product[width : 2 * width], product[2 * width :]
    bias_reset, bias_update, bias_new = bias[:width], bias[width : 2 * width], bias[2 * width :]
    reset, update, new = opened[:width], opened[width : 2 * width], opened[2 * width :]
    for k in range(width):
        reset[k] = sigmoid(given_reset[k] + (to_reset[k] + bias_reset[k]))
        update[k] = sigmoid(given_update[k] + (to_update[k] + bias_update[k]))
        recalled[k] = to_new[k] + bias_new[k]
        new[k] = tanh(given_new[k] + reset[k] * recalled[k])
        after[k] = new[k] + update[k] * (before[k] - new[k])


@compiled
def backwards(by_after, through, opened, recalled, before, by_given, by_product, kept):
    """Gradients of a frame, from those of the state behind it.

    Parameters
    ----------
    by_after, through : (batch, width) float32    gradient by the new state: of the output, and through later frames
    opened, recalled, before    as `forwards` wrote and read them
    by_given, by_product : (batch, 3 · width) float32    written: gradients by ``given`` and by ``product``
    kept : (batch, width) float32    written: the gradient by ``before``, but for what passes through the product
    """
    for clip in range(len(before)):
        _clip_backwards(
            by_after[clip],
            through[clip],
            opened[clip],
            recalled[clip],
            before[clip],
            by_given[clip],
            by_product[clip],
            kept[clip],
        )


@compiled
def _clip_backwards(by_after, through, opened, recalled, before, by_given, by_product, kept):
    width = len(before)
    reset, update, new = opened[:width], opened[width : 2 * width], opened[2 * width :]
    by_reset, by_update, by_new = by_given[:width], by_given[width : 2 * width], by_given[2 * width :]
    to_reset, to_update, to_new = by_product[:width], by_product[width : 2 * width], by_product[2 * width :]
    for k in range(width):
        by_state = by_after[k] + through[k]
        by_new[k] = by_state * (_ONE - update[k]) * (_ONE - new[k] * new[k])
        by_update[k] = by_state * (before[k] - new[k]) * update[k] * (_ONE - update[k])
        by_reset[k] = by_new[k] * recalled[k] * reset[k] * (_ONE - reset[k])
        to_reset[k], to_update[k], to_new[k] = by_reset[k], by_update[k], by_new[k] * reset[k]
        kept[k] = by_state * update[k]
