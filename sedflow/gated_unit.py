"""A frame of gated recurrent units, compiled: everything but the products with their states.

A frame takes a dozen operations forwards and two dozen backwards. As tensors each is a call and a pass over memory;
here all of them are one pass.
"""

from __future__ import annotations

import numpy as np

from sedflow.bfloat16 import read, write
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
def forwards(step, products, given, bias, recorded, exact, current):
    """Open the gates of a frame and step its state, for two units that read a sequence from its two ends.

    Reset and update gate are sigmoid(given + product + bias), the candidate is tanh(given + reset · recalled) with
    recalled = product + bias, and the new state is candidate + update · (before − candidate). Arrays of "numbers" hold
    float32 or the bits of bfloat16.

    Parameters
    ----------
    step : int    the first unit reads frame ``step``, the second the one as far from the end
    products : two of (batch, 3 · width) numbers    what the units' states send to reset, update and candidate
    given : (frames, batch, 2, 3 · width) numbers    what the input sends to them
    bias : (2, 3 · width) float32    of the products
    recorded    written, for `backwards`:
        the gates opened, reset, update and candidate, (frames or 1, batch, 2, 3 · width) float32;
        what was recalled, (frames or 1, batch, 2, width) float32;
        the states behind each frame, one place later, (frames + 2, batch, 2, width) numbers
    exact, current : (2, batch, width) float32, numbers    the units' states, written over by the new ones
    """
    opened, recalled, states = recorded
    frames, batch = given.shape[:2]
    for way in range(2):
        frame = frames - 1 - step if way else step
        kept = frame % len(opened)
        for clip in range(batch):
            _clip_forwards(
                given[frame, clip, way],
                products[way][clip],
                bias[way],
                opened[kept, clip, way],
                recalled[kept, clip, way],
                states[frame + 1, clip, way],
                exact[way, clip],
                current[way, clip],
            )


@compiled
def _clip_forwards(given, product, bias, opened, recalled, after, exact, current):
    # a function of its own, and names for the parts: otherwise the compiler makes no vector code of the loop
    width = len(exact)
    given_reset, given_update, given_new = given[:width], given[width : 2 * width], given[2 * width :]
    to_reset, to_update, to_new = product[:width], product[width : 2 * width], product[2 * width :]
    bias_reset, bias_update, bias_new = bias[:width], bias[width : 2 * width], bias[2 * width :]
    reset, update, new = opened[:width], opened[width : 2 * width], opened[2 * width :]
    for k in range(width):
        reset[k] = sigmoid(read(given_reset, k) + (read(to_reset, k) + bias_reset[k]))
        update[k] = sigmoid(read(given_update, k) + (read(to_update, k) + bias_update[k]))
        recalled[k] = read(to_new, k) + bias_new[k]
        new[k] = tanh(read(given_new, k) + reset[k] * recalled[k])
        exact[k] = new[k] + update[k] * (exact[k] - new[k])
        write(after, k, exact[k])
        write(current, k, exact[k])


@compiled
def backwards(step, products, by_states, recorded, by_given, by_product, by_exact):
    """Gradients of a frame, from those of the states behind it.

    Parameters
    ----------
    step : int    how many frames have been gone through, by the first unit from the end
    products : two of (batch, width) numbers    gradient by the units' new states, through the frames they read next
    by_states : (frames, batch, 2, width) numbers    gradient by the states that `forwards` gave
    recorded    by `forwards`
    by_given : (frames, batch, 2, 3 · width) numbers    written: gradient by ``given``
    by_product : (2, frames, batch, 3 · width) numbers    written, at ``step``: gradient by ``products``
    by_exact : (2, batch, width) float32    gradient by the new states past the products, written over by that of the
        states before
    """
    opened, recalled, states = recorded
    frames, batch = by_states.shape[:2]
    for way in range(2):
        frame = step if way else frames - 1 - step
        for clip in range(batch):
            _clip_backwards(
                by_states[frame, clip, way],
                products[way][clip],
                opened[frame, clip, way],
                recalled[frame, clip, way],
                states[frame + 2 * way, clip, way],
                by_given[frame, clip, way],
                by_product[way, step, clip],
                by_exact[way, clip],
            )


@compiled
def _clip_backwards(by_state, through, opened, recalled, before, by_given, by_product, by_exact):
    width = len(by_exact)
    reset, update, new = opened[:width], opened[width : 2 * width], opened[2 * width :]
    by_reset, by_update, by_new = by_given[:width], by_given[width : 2 * width], by_given[2 * width :]
    to_reset, to_update, to_new = by_product[:width], by_product[width : 2 * width], by_product[2 * width :]
    for k in range(width):
        by_after = read(by_state, k) + read(through, k) + by_exact[k]
        by_candidate = by_after * (_ONE - update[k]) * (_ONE - new[k] * new[k])
        by_gate = by_after * (read(before, k) - new[k]) * update[k] * (_ONE - update[k])
        by_recall = by_candidate * recalled[k] * reset[k] * (_ONE - reset[k])
        write(by_new, k, by_candidate)
        write(by_update, k, by_gate)
        write(by_reset, k, by_recall)
        write(to_reset, k, by_recall)
        write(to_update, k, by_gate)
        write(to_new, k, by_candidate * reset[k])
        by_exact[k] = by_after * update[k]
