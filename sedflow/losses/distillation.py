"""Learning from other detectors: stored pseudo-labels of an ensemble, or a finished detector that runs alongside."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch.nn import functional as F

from sedflow.losses import frame_mean, rows_of
from sedflow.params import EVENT_KINDS
from sedflow.ranges import Share


class Distillation:
    """Binary cross-entropy of frame scores against the probabilities of other detectors.

    Parameters
    ----------
    balance : float
        Share of the pseudo-labels; the rest, 1 − balance, goes to the hard labels of those clips that have them.
        EfficientSED: 0.9.
    sources : list of str, optional    clips of these sources only
    checkpoint : str, optional
        A finished detector of the same classes that reads the student's augmented clips, frozen, evaluating.
        Unset, pseudo-labels are those of the batch.
    network : str    of the checkpoint: "student" or "teacher"
    classes : str    "all", or "known": those that the clip's labels cover

    Source
    ------
    Schmid et al., PretrainedSED and EfficientSED: targets are sigmoids of (mean) logits at temperature 1.
    """

    def __init__(
        self,
        *,
        balance: Share = 1.0,
        sources: list[str] | None = None,
        checkpoint: str | None = None,
        network: Literal["student", "teacher"] = "student",
        classes: Literal["all", "known"] = "all",
    ):
        self.balance, self.sources, self.classes = balance, sources, classes
        self.detector, self.labels, self.sample_rate = None, None, None
        if checkpoint is not None:
            from sedflow.specification import load_detector

            self.detector, specification = load_detector(checkpoint, network)
            self.detector.requires_grad_(False)
            self.labels, self.sample_rate = specification.classes, specification.sample_rate

    def __call__(self, step) -> torch.Tensor:
        """Mean over all frames of clips with pseudo-labels; zero without such clips."""
        terms = self.terms(step)
        return self.balance * terms["soft"] + (1 - self.balance) * terms["hard"]

    def terms(self, step) -> dict[str, torch.Tensor]:
        """The term of pseudo-labels, and that of the hard labels of strongly labelled clips."""
        batch, logits = step.batch, step.student.strong_logits
        rows = rows_of(batch, None, self.sources)
        targets = batch.pseudo
        if self.detector is not None:
            targets = self.listen(batch, step.half)
        else:
            rows = rows & batch.has_pseudo
        if targets is None:
            zero = logits.sum() * 0.0
            return {"soft": zero, "hard": zero}
        soft = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        hard = F.binary_cross_entropy_with_logits(logits, batch.strong, reduction="none")
        known = batch.known if self.classes == "known" else torch.ones_like(batch.known)
        with_events = rows & rows_of(batch, EVENT_KINDS, self.sources)
        return {
            "soft": frame_mean(soft, known, batch.valid & rows.unsqueeze(1), processes=step.processes),
            "hard": frame_mean(hard, batch.known, batch.valid & with_events.unsqueeze(1), processes=step.processes),
        }

    @torch.no_grad()
    def listen(self, batch, half: torch.dtype | None = None) -> torch.Tensor:
        """Scores of the finished detector for the clips as the student reads them, (batch, frames, classes).

        Its network computes in the student's precision: ``half``, float32 if unset.
        """
        self.detector.to(batch.strong.device)
        inputs = dataclasses.replace(batch.inputs, embeddings={}, spectra={}, features={})
        mixing = batch.mixing
        if mixing is not None and mixing.domain != "waveform":
            # the student's features were mixed; this detector has its own front end, and mixes there the same way
            opened = self.detector.opened(inputs, mixing.domain)
            kind = "spectra" if mixing.domain == "spectrum" else "features"
            mixed = {name: mixing.apply(part) for name, part in getattr(opened, kind).items()}
            inputs = dataclasses.replace(opened, **{kind: mixed})
        with torch.autocast(batch.strong.device.type, half, enabled=half is not None):
            return self.detector.read(inputs, batch.strong.shape[1], batch.valid).strong
