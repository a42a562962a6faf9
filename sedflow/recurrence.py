"""Gated recurrent layers on a processor: a frame is one product and one pass, and the gradient of the weights one
product behind the last frame.

PyTorch's own loop makes a dozen small tensors of each frame and direction, which autograd keeps, and a product for the
gradient of the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sedflow import gated_unit
from sedflow.dropout import dropout
from sedflow.products import linear, repeated, weight_gradient

_HOLD = 1e4  # in front of an update gate: the state stays as it was, to the last bit


def read_both_ways(gru: nn.GRU, sequence: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """What a bidirectional, batch-first ``gru`` gives: (batch, frames, dim) → (batch, frames, 2 · width).

    ``padding_mask`` (batch, frames) is True where a frame is real; padding follows the clip, is not read, and gives 0.
    States are float32, whatever the products are computed in.
    """
    sequence = sequence.transpose(0, 1).contiguous()
    padding = None if padding_mask is None else ~padding_mask.t().unsqueeze(2)
    for layer in range(gru.num_layers):
        if layer:
            sequence = dropout(sequence, gru.dropout, gru.training)
        if padding is not None:
            sequence = sequence.masked_fill(padding, 0)
        ways = (f"l{layer}", f"l{layer}_reverse")
        sequence = torch.cat([_read(gru, way, sequence, padding) for way in ways], dim=2)
    if padding is not None:
        sequence = sequence.masked_fill(padding, 0)
    return sequence.transpose(0, 1)


def _read(gru, way, sequence, padding):
    """One layer in one direction: (frames, batch, features) → (frames, batch, width)."""
    given = linear(sequence, getattr(gru, f"weight_ih_{way}"), getattr(gru, f"bias_ih_{way}"))
    weight, bias = getattr(gru, f"weight_hh_{way}"), getattr(gru, f"bias_hh_{way}")
    dtype = given.dtype
    given = given.float()
    if padding is not None:
        reset, update, new = given.chunk(3, dim=2)
        given = torch.cat([reset, update.masked_fill(padding, _HOLD), new], dim=2)
    return _Recurrence.apply(given, weight.to(dtype), bias.float(), way.endswith("reverse")).to(dtype)


class _Recurrence(torch.autograd.Function):
    """States of gated units that begin at 0 and read their sequence from the first frame to the last, or backwards.

    Shapes: what the input gives to the gates (frames, batch, 3 · width), weight of the state (3 · width, width), its
    bias (3 · width,), states (frames, batch, width); see `sedflow.gated_unit` for the arithmetic.
    """

    @staticmethod
    def forward(ctx, given, weight, bias, backwards):
        frames, batch, _ = given.shape
        width = weight.shape[1]
        kept = frames if any(ctx.needs_input_grad) else 1  # what no gradient will ask for is written over
        opened, recalled = given.new_empty(kept, batch, 3 * width), given.new_empty(kept, batch, width)
        states = given.new_empty(frames + 1, batch, width)  # with the state before the first frame
        states[-1 if backwards else 0] = 0
        given_, bias_, opened_, recalled_, states_ = (part.numpy() for part in (given, bias, opened, recalled, states))
        with torch.autocast("cpu", enabled=False):
            product, by_frame = repeated(weight), states.unbind()
            for frame, before, after in _steps(frames, backwards):
                from_state = product(by_frame[before].to(weight.dtype)).float().numpy()
                gated_unit.forwards(
                    given_[frame],
                    from_state,
                    bias_,
                    states_[before],
                    opened_[frame % kept],
                    recalled_[frame % kept],
                    states_[after],
                )
        ctx.backwards = backwards
        ctx.save_for_backward(opened, recalled, states, weight)
        return states[:-1] if backwards else states[1:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        opened, recalled, states, weight = ctx.saved_tensors
        frames = len(opened)
        by_given, by_product = torch.empty_like(opened), torch.empty_like(opened)
        carried, kept = torch.zeros_like(states[0]), torch.empty_like(states[0])
        gradient = gradient.contiguous()
        gradient_, opened_, recalled_, states_ = (part.numpy() for part in (gradient, opened, recalled, states))
        by_given_, by_product_, kept_ = by_given.numpy(), by_product.numpy(), kept.numpy()
        with torch.autocast("cpu", enabled=False):
            product, by_frame = repeated(weight.t()), by_product.unbind()
            for frame, before, _ in reversed(_steps(frames, ctx.backwards)):
                gated_unit.backwards(
                    gradient_[frame],
                    carried.numpy(),
                    opened_[frame],
                    recalled_[frame],
                    states_[before],
                    by_given_[frame],
                    by_product_[frame],
                    kept_,
                )
                carried = product(by_frame[frame].to(weight.dtype)).float().add_(kept)
            befores = states[1:] if ctx.backwards else states[:-1]
            by_weight = weight_gradient(by_product.to(weight.dtype), befores.to(weight.dtype))
        return by_given, by_weight, by_product.sum(dim=(0, 1)), None


def _steps(frames: int, backwards: bool) -> list[tuple[int, int, int]]:
    """In the order of reading: the frame, and where the states before and behind it stand among ``frames`` + 1."""
    if backwards:
        return [(frame, frame + 1, frame) for frame in reversed(range(frames))]
    return [(frame, frame, frame + 1) for frame in range(frames)]
