"""Mean teacher and interpolation consistency, as one loss."""

from __future__ import annotations

import torch
from torch.nn import functional as F


class Consistency:
    """The student on the batch has to match the teacher on the clean clips, mixed as the batch was.

    Without mixing this is the mean teacher (Tarvainen & Valpola, 2017), with it interpolation consistency (Verma et
    al., 2019) as ATST-SED uses it.

    Parameters
    ----------
    strong_weight : float    weight of the frame term, mean squared error of probabilities
    weak_weight : float    weight of the clip term
    """

    def __init__(self, *, strong_weight: float = 1.0, weak_weight: float = 1.0):
        self.strong_weight = strong_weight
        self.weak_weight = weak_weight

    def __call__(self, step) -> torch.Tensor:
        """Weighted mean over the whole batch, labelled or not."""
        batch, student, teacher = step.batch, step.student, step.teacher
        strong, weak = teacher.strong.detach(), teacher.weak.detach()
        if batch.mixing is not None:
            strong, weak = batch.mixing.apply(strong), batch.mixing.apply(weak)
        frame_term = F.mse_loss(student.strong[batch.valid], strong[batch.valid])
        return self.strong_weight * frame_term + self.weak_weight * F.mse_loss(student.weak, weak)
