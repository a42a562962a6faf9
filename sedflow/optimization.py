"""Parameter groups by part and layer, and learning-rate schedules in optimiser steps."""

from __future__ import annotations

import math

import torch

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
        ``params``, ``lr``, ``weight_decay``, ``name``. Biases and norms (one-dimensional tensors) are never decayed.
        Layer i of an encoder with n layers gets lr · layer_decay^(n−1−i): the layer nearest the output learns fastest.
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
    groups = []
    for name, parameters, lr in layers:
        trained = [p for p in parameters if p.requires_grad]
        for suffix, chosen, weight_decay in (
            ("", [p for p in trained if p.dim() > 1], optimizer["weight_decay"]),
            (".norms", [p for p in trained if p.dim() <= 1], 0.0),
        ):
            if chosen:
                groups.append({"params": chosen, "lr": lr, "weight_decay": weight_decay, "name": name + suffix})
    return groups


def build_optimizer(detector: Detector, optimizer: dict) -> torch.optim.Optimizer:
    """Adam or AdamW over the groups of a detector."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer["name"]]
    return kind(parameter_groups(detector, optimizer))


def learning_rate_factor(step: int, steps: int, optimizer: dict) -> float:
    """Share of the peak learning rate at optimiser step ``step`` (0 is the first).

    Warm-up is linear, or exponential: exp(−5 (1 − s/R)²) over R steps (DCASE baseline). Then it stays, or falls along
    half a cosine to ``floor``.
    """
    warmup = optimizer["warmup_steps"]
    if step < warmup:
        share = (step + 1) / warmup
        return share if optimizer["warmup"] == "linear" else math.exp(-5 * (1 - share) ** 2)
    if optimizer["schedule"] == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - warmup)
    floor = optimizer["floor"]
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ramp(step: int, ramp_steps: int) -> float:
    """Weight of a consistency loss at step s: exp(−5 (1 − s/R)²), 1 from step R on. Source: DESED_task, schedulers."""
    if ramp_steps <= 0:
        return 1.0
    return math.exp(-5 * (1 - min(step, ramp_steps) / ramp_steps) ** 2)
