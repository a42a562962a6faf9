"""Gated recurrent layers on a processor: a frame is one product per direction and one pass, and the gradient of the
weights one product behind the last frame.

PyTorch's own loop makes a dozen small tensors of each frame and direction, which autograd keeps, and a product for the
gradient of the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sedflow import gated_unit
from sedflow.bfloat16 import numbers
from sedflow.dropout import dropout
from sedflow.products import linear, repeated, weight_gradient

_HOLD = 1e4  # in front of an update gate: the state stays as it was, to the last bit


def read_both_ways(gru: nn.GRU, sequence: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """What a bidirectional, batch-first ``gru`` gives: (batch, frames, dim) → (batch, frames, 2 · width).

    ``padding_mask`` (batch, frames) is True where a frame is real; padding follows the clip, is not read, and gives 0.
    A state is float32 from frame to frame, whatever the products are computed in.
    """
    sequence = sequence.transpose(0, 1).contiguous()
    padding = None if padding_mask is None else ~padding_mask.t().unsqueeze(2)
    for layer in range(gru.num_layers):
        if layer:
            sequence = dropout(sequence, gru.dropout, gru.training)
        if padding is not None:
            sequence = sequence.masked_fill(padding, 0)
        sequence = _read(gru, layer, sequence, padding)
    if padding is not None:
        sequence = sequence.masked_fill(padding, 0)
    return sequence.transpose(0, 1)


def _read(gru, layer, sequence, padding):
    """One layer: (frames, batch, features) → (frames, batch, 2 · width)."""

    def both(name):
        return [getattr(gru, f"{name}_l{layer}{way}") for way in ("", "_reverse")]

    given = linear(sequence, torch.cat(both("weight_ih")), torch.cat(both("bias_ih")))
    given = given.unflatten(2, (2, 3 * gru.hidden_size))
    if padding is not None:
        reset, update, new = given.chunk(3, dim=3)
        given = torch.cat([reset, update.masked_fill(padding.unsqueeze(3), _HOLD), new], dim=3)
    dtype = given.dtype
    given = given if dtype == torch.bfloat16 else given.float()
    weight, bias = torch.stack(both("weight_hh")), torch.stack(both("bias_hh"))
    return _Recurrence.apply(given, weight.to(given.dtype), bias.float()).to(dtype)


class _Recurrence(torch.autograd.Function):
    """States of gated units, of which one reads a sequence from the first frame and one from the last; both begin at 0.

    Shapes: what the input gives to the gates (frames, batch, 2, 3 · width), weights of the states (2, 3 · width,
    width), their biases (2, 3 · width), states (frames, batch, 2 · width); see `sedflow.gated_unit` for the arithmetic.
    """

    @staticmethod
    def forward(ctx, given, weight, bias):
        frames, batch, _, gates = given.shape
        width = weight.shape[2]
        kept = frames if any(ctx.needs_input_grad) else 1  # what no gradient will ask for is written over
        opened = torch.empty(kept, batch, 2, gates)
        recalled = torch.empty(kept, batch, 2, width)
        states = given.new_empty(frames + 2, batch, 2, width)  # with those before the first frame and behind the last
        states[0] = states[-1] = 0
        exact, current = torch.zeros(2, batch, width), given.new_zeros(2, batch, width)
        with torch.autocast("cpu", enabled=False):
            product = repeated(weight)
            recorded = numbers(opened), numbers(recalled), numbers(states)
            arrays = numbers(given), numbers(bias), recorded, numbers(exact), numbers(current)
            for step in range(frames):
                ahead, back = product(current)
                gated_unit.forwards(step, (numbers(ahead), numbers(back)), *arrays)
        ctx.save_for_backward(opened, recalled, states, weight)
        return states[1:-1].flatten(2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        opened, recalled, states, weight = ctx.saved_tensors
        frames, batch, _, gates = opened.shape
        gradient = gradient.contiguous().view(frames, batch, 2, -1)
        by_given, by_product = gradient.new_empty(frames, batch, 2, gates), gradient.new_empty(2, frames, batch, gates)
        by_exact = torch.zeros(2, *recalled[0, :, 0].shape)
        ahead = back = torch.zeros_like(gradient[0, :, 0])
        with torch.autocast("cpu", enabled=False):
            product = repeated(weight.transpose(1, 2))
            recorded = numbers(opened), numbers(recalled), numbers(states)
            arrays = numbers(gradient), recorded, numbers(by_given), numbers(by_product), numbers(by_exact)
            for step in range(frames):
                gated_unit.backwards(step, (numbers(ahead), numbers(back)), *arrays)
                ahead, back = product(by_product[:, step])
            # the first unit's are in the order of the steps, from its last frame to its first
            befores = states[:-2, :, 0].flip(0), states[2:, :, 1]
            by_weight = torch.stack([weight_gradient(*pair) for pair in zip(by_product, befores, strict=True)])
        return by_given, by_weight, by_product.sum(dim=(1, 2), dtype=torch.float32)
