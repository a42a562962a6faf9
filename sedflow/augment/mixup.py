"""Mixup of clips with each other: inputs, targets and cached features alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sedflow.augment import changed, changed_alike, check_mixable, grouped_rows, of_encoders, tensor
from sedflow.dataset import Batch, Inputs, Mixing
from sedflow.ranges import Positive, Share

DOMAIN = "waveform"


def mixup(  # noqa: PLR0913 (settings of a page)
    batch: Batch,
    rng: np.random.Generator,
    *,
    on: Literal["waveform", "spectrum", "features"] = "waveform",
    probability: Share = 0.5,
    alpha: Positive = 0.2,
    beta: Positive | None = None,
    groups: Literal["kind", "source", "batch"] | list[list[str]] = "kind",
    stronger_first: bool = False,
    per_clip: bool = False,
    labels: Literal["soft", "union"] = "soft",
    known: Literal["both", "either"] = "both",
    teacher: Literal["clean", "mixed"] = "clean",
    encoders: list[str] | None = None,
) -> Batch:
    """Mix each clip with another of its group. Groups may be mixed each in its own way, by one mixup after the other.

    Parameters
    ----------
    on : str    "waveform", "spectrum" (linear mel) or "features"; cached embeddings are mixed in any case
    probability : float    chance that a batch is mixed at all
    alpha, beta : float    λ ~ Beta(alpha, beta); beta is alpha if unset
    groups : str or list of list of str
        Who is mixed with whom: "kind" of labels, "source", lists of sources, or the whole "batch". Labels of a group
        are of one kind; pseudo-labels are one, those that say when are another.
    stronger_first : bool    use max(λ, 1 − λ), so that a clip keeps most of itself
    per_clip : bool    draw λ for every clip, not once per group
    labels : str    "soft": targets are mixed as the inputs are; "union": a class sounds if it sounds in either
    known : str    a class counts where "both" clips' labels speak of it, or where "either" clip's do
    teacher : str
        "clean": the teacher reads unmixed clips, and the consistency loss mixes what it says (interpolation
        consistency). "mixed": it reads what the student reads (mean teacher of the DCASE baselines).
    encoders : list of str, optional
        Mix what these encoders read; all if unset. Labels are mixed in any case, so that a page may spare only encoders
        whose embeddings are cached, as ATST-SED does.

    Source
    ------
    Zhang et al., mixup (ICLR 2018); DESED_task, data_augm.py:19-53; ATST-SED, train/local/stage2_trainer.py.
    """
    if rng.random() >= probability:
        return batch
    partner, weight, group = np.arange(len(batch)), np.ones(len(batch)), np.full(len(batch), -1)
    for number, rows in enumerate(grouped_rows(batch, groups)):
        check_mixable(batch, rows)
        partner[rows] = rows[rng.permutation(len(rows))]
        drawn = rng.beta(alpha, alpha if beta is None else beta, size=len(rows) if per_clip else 1)
        weight[rows] = np.maximum(drawn, 1 - drawn) if stronger_first else drawn
        group[rows] = number
    mixing = Mixing(tensor(batch, partner), tensor(batch, weight), tensor(batch, group), on, teacher == "mixed")
    unmixed = batch.unmixed
    mix = lambda inputs: mixed_inputs(inputs, mixing, encoders)  # noqa: E731
    mixed = changed_alike(batch, mix) if mixing.clean_too else batch.replace(inputs=mix(batch.inputs))
    return mixed_labels(mixed, mixing, labels, known).replace(
        clean_known=None if mixing.clean_too else unmixed.known,
        clean_valid=None if mixing.clean_too else unmixed.valid,
        mixing=mixing if batch.mixing is None else joined(batch.mixing, mixing),
    )


def joined(first: Mixing, second: Mixing) -> Mixing:
    """Two mixings of different rows as one.

    Raises
    ------
    ValueError    a row that both mixed, or mixings of different kinds
    """
    before, now = first.group >= 0, second.group >= 0
    if bool((before & now).any()) or (first.domain, first.clean_too) != (second.domain, second.clean_too):
        raise ValueError("mixup: several mixups need `groups` that share no source, and the same `on` and `teacher`")
    group = torch.where(now, second.group + 1 + first.group.max(), first.group)
    partner, weight = (torch.where(now, getattr(second, name), getattr(first, name)) for name in ("partner", "weight"))
    return Mixing(partner, weight, group, first.domain, first.clean_too)


def mixed_inputs(inputs: Inputs, mixing: Mixing, encoders: list[str] | None) -> Inputs:
    """Inputs mixed in the domain of the mixing."""
    mix = of_encoders(mixing.apply, encoders)
    if mixing.domain == "waveform":
        return changed(inputs, waveform=mixing.apply, embeddings=mix)
    return changed(inputs, **{"spectra" if mixing.domain == "spectrum" else "features": mix, "embeddings": mix})


def mixed_labels(batch: Batch, mixing: Mixing, labels: str, known: str) -> Batch:
    """A batch whose labels are mixed, pseudo-labels included."""
    partner = mixing.partner
    mix: Callable[[Tensor], Tensor] = mixing.apply
    if labels == "union":
        mix = lambda targets: torch.maximum(targets, targets[partner])  # noqa: E731
    both, either = batch.known & batch.known[partner], batch.known | batch.known[partner]
    return batch.replace(
        strong=mix(batch.strong),
        weak=mix(batch.weak),
        valid=batch.valid | batch.valid[partner],
        known=both if known == "both" else either,
        pseudo=None if batch.pseudo is None else mixing.apply(batch.pseudo),
        has_pseudo=batch.has_pseudo & batch.has_pseudo[partner],
    )
