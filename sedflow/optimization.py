"""Parameter groups by part and layer, and learning-rate schedules in optimiser steps."""

from __future__ import annotations

import math

import torch
from torch import nn

from sedflow.detector import Detector


def parameter_groups(detector: Detector, optimizer: dict) -> list[dict]:
    """Groups for a torch optimiser: one per layer, split into what decays and what does not.

    Parameters
    ----------
    detector : Detector
    optimizer : dict    see `sedflow.params.Optimizer`

    Returns
    -------
    list of dict
        ``params``, ``lr``, ``weight_decay``, ``name``. Biases, norms, gains, positions and tokens never decay, see
        `never_decay`. Layer i of an encoder with n layers gets lr · layer_decay^(n−1−i): the layer nearest the output
        learns fastest.
    """
    encoder_parameters = {id(p) for encoder in detector.encoders.values() for p in encoder.parameters()}
    head = [p for p in detector.parameters() if id(p) not in encoder_parameters]
    layers = [("head", head, optimizer["lr"]["head"])]
    for name, encoder in detector.encoders.items():
        if name in detector.frozen:
            continue
        decay = optimizer["layer_decay"].get(name, 1.0)
        for depth, layer in enumerate(reversed(encoder.layers())):
            lr = optimizer["lr"][name] * decay**depth
            layers.append((f"{name}.{len(encoder.layers()) - 1 - depth}", list(layer.parameters()), lr))
    groups, spared = [], never_decay(detector)
    for name, parameters, lr in layers:
        trained = [p for p in parameters if p.requires_grad]
        for suffix, chosen, weight_decay in (
            ("", [p for p in trained if id(p) not in spared], optimizer["weight_decay"]),
            (".norms", [p for p in trained if id(p) in spared], 0.0),
        ):
            if chosen:
                groups.append({"params": chosen, "lr": lr, "weight_decay": weight_decay, "name": name + suffix})
    return groups


def never_decay(network: nn.Module) -> set[int]:
    """Ids of all parameters but the matrices that data is multiplied by: weights of linear layers, convolutions, GRUs.

    So biases, norms, the gains of weight norms, tables and vectors of positions, and tokens are not decayed.
    """
    spared = set()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # torch's weight norm keeps the gain as original0 and the direction as original1, ours weight_g and weight_v
            matrix = name == "original1" or ("weight" in name and name != "weight_g")
            if not matrix or parameter.dim() <= 1 or isinstance(module, nn.Embedding):
                spared.add(id(parameter))
    return spared


def build_optimizer(detector: Detector, optimizer: dict) -> torch.optim.Optimizer:
    """Adam or AdamW over the groups of a detector."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer["name"]]
    return kind(parameter_groups(detector, optimizer))


def learning_rate_factor(step: int, steps: int, optimizer: dict) -> float:
    """Share of the peak learning rate at optimiser step ``step`` (0 is the first) of ``steps``.

    Warm-up is linear, or exponential as `ramp`; it may be longer than the training. Then the rate stays ("constant"),
    falls along half a cosine to ``floor`` at the last step ("cosine"), or stays until ``constant_steps`` and falls
    along a quarter of a cosine, no lower than ``floor`` ("constant_then_cosine"). Without a floor half a cosine ends
    one step after the last: a step at rate 0 would do nothing.

    Source
    ------
    ATST-SED 7ebf531 train/local/scheduler.py; DESED_task, baseline of 2024. Their steps count from 1. Without a floor:
    EfficientSED and CP-JKU, whose steps count from 0.
    """
    number, warmup = step + 1, optimizer["warmup_steps"]
    if number < warmup:
        return ramp(number, warmup, "linear" if optimizer["warmup"] == "linear" else "exponential")
    if optimizer["schedule"] == "constant":
        return 1.0
    floor = optimizer["floor"]
    late = optimizer["schedule"] == "constant_then_cosine"
    begin = max(warmup, optimizer["constant_steps"]) if late else warmup
    done = number if late or floor else step
    progress = min(1.0, max(0.0, (done - begin) / max(1, steps - begin)))
    if late:
        return max(floor, math.cos(0.5 * math.pi * progress))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def ramp(step: int, ramp_steps: int, kind: str = "exponential", limit: float = 1.0) -> float:
    """Share of a loss' weight at optimiser step ``step`` (1 is the first).

    Parameters
    ----------
    ramp_steps : int    where it reaches 1; 0: it is 1 from the beginning
    kind : str    "exponential": exp(−5 (1 − s/R)²); "linear": s/R; "constant": 1
    limit : float    where a linear ramp ends: CP-JKU's goes on to 2

    Source
    ------
    DESED_task, utils/schedulers.py; CP-JKU, DCASE 2024 Task 4.
    """
    if ramp_steps <= 0 or kind == "constant":
        return 1.0
    if kind == "linear":
        return min(step / ramp_steps, limit)
    return math.exp(-5 * (1 - min(step, ramp_steps) / ramp_steps) ** 2)


def teacher_decay(step: int, teacher: dict) -> float:
    """Share a of itself that the teacher keeps in the update of optimiser step ``step`` (0 is the first)."""
    return min(1 - 1 / (step + 2), teacher["decay"]) if teacher["ramped"] else teacher["decay"]


@torch.no_grad()
def update_teacher(teacher: Detector, student: Detector, decay: float) -> None:
    """θ_t ← a·θ_t + (1 − a)·θ_s over the parameters that train; BatchNorm statistics are left alone.

    A teacher in evaluation mode takes no statistics from its input: its own follow the student's in the same way,
    where those move. Else it would use its parameters with the statistics it began with.
    """
    moved = [
        (mean, own) for mean, own in zip(teacher.parameters(), student.parameters(), strict=True) if own.requires_grad
    ]
    if not teacher.training:
        moved += _statistics(teacher, student)
    if moved:
        torch._foreach_lerp_([mean for mean, _ in moved], [own for _, own in moved], 1 - decay)


def _statistics(teacher: Detector, student: Detector) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """BatchNorm statistics of both networks, where the student's move."""
    return [
        (getattr(mean, name), getattr(own, name))
        for mean, own in zip(teacher.modules(), student.modules(), strict=True)
        if isinstance(own, nn.modules.batchnorm._BatchNorm) and own.training and own.track_running_stats
        for name in ("running_mean", "running_var")
    ]


def freeze_unused(detector: Detector) -> list[str]:
    """Take the gradient from parameters that no score depends on: distributed training would wait for theirs.

    Returns
    -------
    list of str    their names
    """
    frames = detector.grid.frames(1.0)
    given = {name: torch.zeros(1, frames, detector.encoders[name].dim) for name in detector.frozen}
    waveform = None if len(given) == len(detector.encoders) else torch.zeros(1, detector.sample_rate)
    training = detector.training
    detector.eval()
    with torch.enable_grad():
        scores = detector(waveform, given, frames)
        reached = _leaves(scores.strong_logits.sum() + scores.weak.sum())
    detector.train(training)
    unused = [name for name, p in detector.named_parameters() if p.requires_grad and id(p) not in reached]
    for name in unused:
        detector.get_parameter(name).requires_grad_(False)
    return unused


def _leaves(value: torch.Tensor) -> set[int]:
    """Ids of the parameters that a tensor was computed from."""
    leaves, seen, waiting = set(), set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [parent for parent, _ in node.next_functions]
    return leaves
