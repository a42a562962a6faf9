"""Mean teacher and interpolation consistency, as one loss."""

from __future__ import annotations

from typing import Literal

import torch

from sedflow.losses import frame_mean, masked_mean, rows_of
from sedflow.ranges import NotNegative, Positive


class Consistency:
    """The student on the batch has to match the teacher on the clean clips, mixed as the batch was.

    Without mixing this is the mean teacher (Tarvainen & Valpola, 2017), with it interpolation consistency (Verma et
    al., 2019) as ATST-SED uses it. Errors are mean squared differences of probabilities.

    Parameters
    ----------
    strong_weight, weak_weight : float    weights of the frame term and of the clip term
    group_divisor : float, optional
        In a mixed batch, add up the means of the groups it was mixed in, divided by this; unmixed rows make up
        one more group, so that they are taught in mixed batches too. Unset, the mean is over the whole batch, mixed
        or not. ATST-SED, which mixes all rows: 24, beside a weight of 70 for batches that are not mixed.
    count_kinds : bool    a group counts once for each kind of labels in it, as CP-JKU counts a joint group twice
    sources, weak_sources : list of str, optional    whose frame scores are compared, and whose clip scores; unset, all
    classes : str    "all", or "known": those that the clip's labels cover
    dilute : bool    with ``known``: other classes add nothing, but are included in the mean

    Source
    ------
    ATST-SED 7ebf531 train/local/stage2_trainer.py, stage1_trainer.py; CP-JKU, DCASE 2024 Task 4.
    """

    def __init__(
        self,
        *,
        strong_weight: NotNegative = 1.0,
        weak_weight: NotNegative = 1.0,
        group_divisor: Positive | None = None,
        count_kinds: bool = False,
        sources: list[str] | None = None,
        weak_sources: list[str] | None = None,
        classes: Literal["all", "known"] = "all",
        dilute: bool = False,
    ):
        self.strong_weight, self.weak_weight = strong_weight, weak_weight
        self.group_divisor, self.count_kinds = group_divisor, count_kinds
        self.sources, self.weak_sources = sources, weak_sources
        self.classes, self.dilute = classes, dilute

    def __call__(self, step) -> torch.Tensor:
        """Weighted sum of frame and clip terms over the whole batch, or over its groups."""
        batch, mixing = step.batch, step.batch.mixing
        rows = rows_of(batch, None, self.sources)
        if mixing is None or mixing.clean_too or self.group_divisor is None:
            return self._weighted(self.terms(step, rows))
        total = step.student.weak.sum() * 0.0
        for number in mixing.group.unique().tolist():
            group = mixing.group == number
            times = len({batch.kinds[row] for row in group.nonzero().flatten()}) if self.count_kinds else 1
            total = total + times * self._weighted(self.terms(step, rows & group))
        return total / self.group_divisor

    def terms(self, step, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean squared differences over these rows: of frame scores and of clip scores."""
        batch, student, teacher = step.batch, step.student, step.teacher
        if self.classes == "all":
            student, teacher = student.of_all_classes(), teacher.of_all_classes()
        strong, weak = teacher.strong.detach(), teacher.weak.detach()
        known = batch.known
        if batch.mixing is not None and not batch.mixing.clean_too:
            # behind a clip's end is silence, whatever the teacher says of its padding
            heard = strong if batch.clean_valid is None else strong * batch.clean_valid.unsqueeze(2)
            strong, weak = batch.mixing.apply(heard), batch.mixing.apply(weak)
            # whatever the labels' mask: of a class that one part lacks half is unsaid
            if batch.clean_known is not None:
                known = batch.clean_known & batch.clean_known[batch.mixing.partner]
        if self.classes == "all":
            known = torch.ones_like(known)
        of_frames, of_clips = (student.strong - strong).square(), (student.weak - weak).square()
        weak_rows = rows if self.weak_sources is None else rows & rows_of(batch, None, self.weak_sources)
        how = (self.dilute, step.processes)
        return {
            "strong": frame_mean(of_frames, known, batch.valid & rows.unsqueeze(1), *how),
            "weak": masked_mean(of_clips, known, weak_rows, *how),
        }

    def _weighted(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.strong_weight * terms["strong"] + self.weak_weight * terms["weak"]
