"""Losses: a step (batch, student, teacher) → a scalar; zero without rows of its source, gradient to the student.

A loss that runs a detector has it as ``detector``, and that one's ``labels`` and ``sample_rate``: a stage is checked
against them before it trains.

Shared by several of them: which rows they use, and means over what the labels cover.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of(batch, kinds: tuple[str, ...] | None, sources: list[str] | None) -> Tensor:
    """(batch,) bool: rows with these kinds of labels (None: any) that come from these sources (None: any)."""
    chosen = [
        (kinds is None or kind in kinds) and (sources is None or source in sources)
        for kind, source in zip(batch.kinds, batch.sources, strict=True)
    ]
    return torch.tensor(chosen, device=batch.strong.device)


def masked_mean(values: Tensor, counted: Tensor, rows: Tensor, dilute: bool = False, processes: int = 1) -> Tensor:
    """Mean of values (batch, …) over the rows and, in them, over what is counted.

    Parameters
    ----------
    values : (batch, …)
    counted : bool, of a shape that spreads over ``values``
    rows : (batch,) bool
    dilute : bool    what is not counted adds nothing, but is included in the mean's denominator
    processes : int
        That share the batch and all take part: what they return is on average the mean over the whole batch, even where
        clips of one have more frames or classes that count.

    Returns
    -------
    scalar
        0 where nothing is counted.
    """
    rows = rows.view(-1, *[1] * (values.dim() - 1))
    chosen = (counted & rows).expand_as(values)
    among = rows.expand_as(values) if dilute else chosen
    count = among.sum()
    if processes > 1:
        torch.distributed.all_reduce(count)
        count = count / processes
    return values.where(chosen, 0).sum() / count.where(count > 0, 1)


def frame_mean(values: Tensor, known: Tensor, valid: Tensor, dilute: bool = False, processes: int = 1) -> Tensor:
    """Mean of values (batch, frames, classes) over valid (batch, frames) and known (batch, classes); see above."""
    classes = known.unsqueeze(1).expand_as(values)
    return masked_mean(values.flatten(0, 1), classes.flatten(0, 1), valid.flatten(), dilute, processes)
