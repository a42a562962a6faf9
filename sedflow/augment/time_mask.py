"""Blank stretches of time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sedflow.augment import changed_alike, over_time, rows_that_say_when
from sedflow.dataset import Batch
from sedflow.ranges import Count, NotNegative, Positive

DOMAIN = "any"


def time_mask(
    batch: Batch,
    rng: np.random.Generator,
    *,
    masks: Count = 1,
    min_seconds: NotNegative = 0.0,
    max_seconds: NotNegative = 0.5,
    clip_seconds: Positive = 10.0,
    labels: bool = False,
    sources: list[str] | None = None,
) -> Batch:
    """Blank stretches of what the student reads.

    Parameters
    ----------
    masks : int    stretches per clip
    min_seconds, max_seconds : float    shortest and longest stretch
    clip_seconds : float    length of the clips; a page's own unless set
    labels : bool
        False: targets stay and the teacher hears everything, so that the student learns to bridge gaps. True: targets
        and pseudo-labels are blanked too, and the teacher hears what the student hears; only clips whose labels say
        when are masked.
    sources : list of str, optional    mask clips of these sources; all if unset
    """
    chosen = np.isin(batch.sources, sources) if sources is not None else np.ones(len(batch), dtype=bool)
    if labels:
        chosen = rows_that_say_when(batch, sources)
    spans = rng.random((len(batch), masks, 2))

    def blank(values: Tensor) -> Tensor:
        values = values.clone()
        length = values.shape[1]
        shortest, longest = (seconds / clip_seconds * length for seconds in (min_seconds, max_seconds))
        for row in np.flatnonzero(chosen):
            for place, share in spans[row]:
                width = round(shortest + share * (longest - shortest))
                start = round(place * (length - width))
                values[row, start : start + width] = 0
        return values

    if not labels:
        return batch.replace(inputs=over_time(batch.inputs, blank))
    strong = blank(batch.strong)
    # an event that lies wholly in a stretch is in the clip no more
    heard = torch.from_numpy(~chosen).to(strong.device).unsqueeze(1) | strong.amax(1).gt(0)
    return changed_alike(batch, lambda inputs: over_time(inputs, blank)).replace(
        strong=strong,
        weak=batch.weak * heard,
        pseudo=None if batch.pseudo is None else blank(batch.pseudo),
    )
