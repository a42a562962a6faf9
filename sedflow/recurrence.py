"""Gated recurrent layers on a processor: both directions side by side, the gradient of the weights in one product.

For each frame and direction PyTorch's own loop makes a dozen small tensors, which autograd keeps, and a product for
the gradient of the weights. Here six operations serve both directions of a frame, and a dozen backwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedflow.layers import at_least_float32
from sedflow.products import linear

_HOLD = 1e4  # in front of an update gate: the state stays as it was, to the last bit


def read_both_ways(gru: nn.GRU, sequence: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """What a bidirectional, batch-first ``gru`` gives: (batch, frames, dim) → (batch, frames, 2 · width).

    ``padding_mask`` (batch, frames) is True where a frame is real; padding follows the clip, is not read, and gives 0.
    States are float32 at least, whatever the products are computed in.
    """
    sequence = sequence.transpose(0, 1).contiguous()
    padding = None if padding_mask is None else ~padding_mask.t().unsqueeze(2)
    for layer in range(gru.num_layers):
        if layer:
            sequence = F.dropout(sequence, gru.dropout, gru.training)
        if padding is not None:
            sequence = sequence.masked_fill(padding, 0)
        sequence = _layer(gru, layer, sequence, padding)
    if padding is not None:
        sequence = sequence.masked_fill(padding, 0)
    return sequence.transpose(0, 1)


def _layer(gru, layer, sequence, padding):
    """One layer: (frames, batch, features) → (frames, batch, 2 · width)."""
    gates, weights, biases = [], [], []
    for name in (f"l{layer}", f"l{layer}_reverse"):
        # the state's bias of reset and update gate is added once for all frames; the candidate's is reset with it
        gates_bias, candidate_bias = getattr(gru, f"bias_hh_{name}").split([2 * gru.hidden_size, gru.hidden_size])
        bias = getattr(gru, f"bias_ih_{name}") + F.pad(gates_bias, (0, gru.hidden_size))
        gates.append(linear(sequence, getattr(gru, f"weight_ih_{name}"), bias))
        weights.append(getattr(gru, f"weight_hh_{name}"))
        biases.append(candidate_bias)
    dtype = gates[0].dtype
    gates = at_least_float32(_from_the_end(torch.stack(gates)))
    if padding is not None:
        reset, update, candidate = gates.chunk(3, dim=3)
        update = update.masked_fill(_from_the_end(torch.stack([padding, padding])), _HOLD)
        gates = torch.cat([reset, update, candidate], dim=3)
    states = _Recurrence.apply(gates, torch.stack(weights).to(dtype), at_least_float32(torch.stack(biases)))
    return torch.cat(_from_the_end(states).unbind(), dim=2).to(dtype)


def _from_the_end(sequences):
    """(2, frames, …) with the second one reversed in time: what is read backwards, as it is read, or back again."""
    return torch.stack([sequences[0], sequences[1].flip(0)])


class _Recurrence(torch.autograd.Function):
    """States of gated units that begin at 0 and read their sequence from its first frame to its last.

    With reset and update behind a sigmoid and new = tanh(candidate + reset · (W h + b)), a frame makes of the state h
    new + update · (h − new). Shapes: gates (directions, frames, batch, 3 · width) in the order reset, update,
    candidate; weights (directions, 3 · width, width); biases of the candidate (directions, width); states
    (directions, frames, batch, width).
    """

    @staticmethod
    def forward(ctx, gates, weights, biases):
        directions, frames, batch, _ = gates.shape
        width = weights.shape[2]
        kept = frames if any(ctx.needs_input_grad) else 1  # what no gradient will ask for is written over
        opened = gates.new_empty(directions, kept, batch, 3 * width)  # gates behind their nonlinearities
        recalled = gates.new_empty(directions, kept, batch, width)  # what the state adds to the candidate
        states = gates.new_empty(directions, frames, batch, width)

        def by_frame(part):
            return part.unbind(1) * (frames // part.shape[1])

        given_doors, given_new = (by_frame(part) for part in gates.split([2 * width, width], dim=3))
        doors, new = (by_frame(part) for part in opened.split([2 * width, width], dim=3))
        reset, update, _ = (by_frame(part) for part in opened.chunk(3, dim=3))
        recall, after = by_frame(recalled), by_frame(states)
        onto_gates, biases = weights.transpose(1, 2).contiguous(), biases.unsqueeze(1)
        state = gates.new_zeros(directions, batch, width)
        for frame in range(frames):
            from_state = torch.bmm(state.to(weights.dtype), onto_gates).to(gates.dtype)
            torch.add(given_doors[frame], from_state[..., : 2 * width], out=doors[frame]).sigmoid_()
            torch.add(from_state[..., 2 * width :], biases, out=recall[frame])
            torch.addcmul(given_new[frame], recall[frame], reset[frame], out=new[frame]).tanh_()
            state = torch.lerp(new[frame], state, update[frame], out=after[frame])
        ctx.save_for_backward(opened, recalled, states, weights)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        opened, recalled, states, weights = ctx.saved_tensors
        width = weights.shape[2]
        # side by side: what the product with the state gave (candidate, reset, update), and what the input gave
        # (reset, update, candidate); the two candidates differ by the reset gate
        by_gates = opened.new_empty(*opened.shape[:3], 4 * width)
        by_products = by_gates[..., : 3 * width]
        reset, update, new = (part.unbind(1) for part in opened.chunk(3, dim=3))
        recall, given, by_gate, by_product = (part.unbind(1) for part in (recalled, gradient, by_gates, by_products))
        by_state = torch.zeros_like(states[:, 0])
        before = (by_state, *states.unbind(1))
        to_state = weights.roll(width, dims=1)  # candidate, reset, update
        for frame in reversed(range(states.shape[1])):
            by_state = by_state + given[frame]
            by_candidate = torch.ops.aten.tanh_backward(by_state - by_state * update[frame], new[frame])
            by_reset = torch.ops.aten.sigmoid_backward(by_candidate * recall[frame], reset[frame])
            by_update = torch.ops.aten.sigmoid_backward(by_state * (before[frame] - new[frame]), update[frame])
            torch.cat((by_candidate * reset[frame], by_reset, by_update, by_candidate), 2, out=by_gate[frame])
            through_products = torch.bmm(by_product[frame].to(weights.dtype), to_state).to(opened.dtype)
            by_state = through_products.addcmul_(by_state, update[frame])
        by_weights = torch.bmm(
            by_products[:, 1:].flatten(1, 2).to(weights.dtype).transpose(1, 2),
            states[:, :-1].flatten(1, 2).to(weights.dtype),
        )
        return by_gates[..., width:], by_weights.roll(-width, dims=1), by_gates[..., :width].sum(dim=(1, 2))
