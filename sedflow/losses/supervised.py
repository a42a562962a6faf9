"""Binary cross-entropy against strong, soft and weak labels."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from sedflow.losses import frame_mean, masked_mean, rows_of
from sedflow.params import EVENT_KINDS
from sedflow.ranges import NotNegative


class Supervised:
    """Frame labels train frame scores, clip labels train clip scores; classes that labels do not cover do not count.

    Parameters
    ----------
    strong_weight, weak_weight : float    weights of the frame term and of the clip term
    weak_from_strong : bool    clips with frame labels count in the clip term too
    sources : list of str, optional    clips of these sources only
    dilute : bool
        Classes that labels do not cover add nothing, but are included in the mean: the baseline of 2024 and
        CP-JKU, where a source with few classes weighs less.
    """

    def __init__(
        self,
        *,
        strong_weight: NotNegative = 1.0,
        weak_weight: NotNegative = 1.0,
        weak_from_strong: bool = False,
        sources: list[str] | None = None,
        dilute: bool = False,
    ):
        self.strong_weight, self.weak_weight = strong_weight, weak_weight
        self.weak_kinds = ("weak", *EVENT_KINDS) if weak_from_strong else ("weak",)
        self.sources, self.dilute = sources, dilute

    def __call__(self, step) -> torch.Tensor:
        """Weighted sum of the terms; zero without such clips."""
        terms = self.terms(step)
        return self.strong_weight * terms["strong"] + self.weak_weight * terms["weak"]

    def terms(self, step) -> dict[str, torch.Tensor]:
        """The mean over frames with labels, and that over clips with labels."""
        batch, student = step.batch, step.student
        of_frames = F.binary_cross_entropy_with_logits(student.strong_logits, batch.strong, reduction="none")
        # the pooled probability can touch 1 by rounding; near 0 it is exact, and a missed class is learnt
        of_clips = F.binary_cross_entropy(student.weak.clamp(max=1 - 1e-7), batch.weak, reduction="none")
        with_events = rows_of(batch, EVENT_KINDS, self.sources)
        how = (self.dilute, step.processes)
        frames = frame_mean(of_frames, batch.known, batch.valid & with_events.unsqueeze(1), *how)
        clips = masked_mean(of_clips, batch.known, rows_of(batch, self.weak_kinds, self.sources), *how)
        return {"strong": frames, "weak": clips}
