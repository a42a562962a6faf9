"""Binary cross-entropy against strong and weak labels."""

from __future__ import annotations

import torch
from torch.nn import functional as F


class Supervised:
    """Frame labels judge frame scores, clip labels judge clip scores.

    Parameters
    ----------
    weak_weight : float    weight of the clip term beside the frame term
    weak_from_strong : bool    strongly labelled clips count in the clip term too
    """

    def __init__(self, *, weak_weight: float = 1.0, weak_from_strong: bool = False):
        self.weak_weight = weak_weight
        self.weak_from_strong = weak_from_strong

    def __call__(self, step) -> torch.Tensor:
        """Mean over strongly labelled frames plus the weighted mean over labelled clips; zero without such rows."""
        batch, student = step.batch, step.student
        loss = student.weak.sum() * 0.0
        rows = batch.rows_of_kind("strong")
        if len(rows):
            valid = batch.valid[rows]
            logits = student.strong_logits[rows][valid]
            loss = loss + F.binary_cross_entropy_with_logits(logits, batch.strong[rows][valid])
        rows = batch.rows_of_kind("weak", "strong") if self.weak_from_strong else batch.rows_of_kind("weak")
        if len(rows):
            # the pooled probability can touch 1 by rounding
            weak = student.weak[rows].clamp(1e-7, 1 - 1e-7)
            loss = loss + self.weak_weight * F.binary_cross_entropy(weak, batch.weak[rows])
        return loss
