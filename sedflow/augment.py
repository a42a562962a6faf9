"""Augmentation: Batch → Batch. Each public function is one step of a page's ``augment`` list, in that order.

``mixup`` records how it mixed, so that the consistency loss can mix the teacher's clean predictions the same way.
Functions that need the waveform say so in `NEEDS_WAVEFORM`: they are refused where only cached features are read.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sedflow.dataset import Batch, Inputs, Mixing

NEEDS_WAVEFORM = ("gain", "equalize")


def mixup(
    batch: Batch,
    rng: np.random.Generator,
    *,
    probability: float = 0.5,
    alpha: float = 0.2,
    stronger_first: bool = False,
    per_clip: bool = False,
    labels: str = "soft",
) -> Batch:
    """Mix each clip with another of the same kind of labels: inputs, targets and cached features alike.

    Parameters
    ----------
    probability : float    chance that a batch is mixed at all
    alpha : float    λ ~ Beta(alpha, alpha)
    stronger_first : bool    use max(λ, 1 − λ), so that a clip keeps most of itself
    per_clip : bool    draw λ for every clip, not once per kind of labels
    labels : str    "soft": targets are mixed as the inputs are; "union": a class sounds if it sounds in either

    Source
    ------
    Zhang et al., mixup (ICLR 2018); within one kind of labels as in DESED_task, data_augm.py:19-53.
    """
    if rng.random() >= probability:
        return batch
    partner = np.arange(len(batch))
    weight = np.ones(len(batch))
    for kind in dict.fromkeys(batch.kinds):
        rows = batch.rows_of_kind(kind).numpy()
        partner[rows] = rows[rng.permutation(len(rows))]
        drawn = rng.beta(alpha, alpha, size=len(rows) if per_clip else 1)
        weight[rows] = np.maximum(drawn, 1 - drawn) if stronger_first else drawn
    mixing = Mixing(torch.from_numpy(partner), torch.from_numpy(weight).float())
    mix = mixing.apply if labels == "soft" else lambda targets: torch.maximum(targets, targets[mixing.partner])
    return batch.replace(
        inputs=_map_inputs(batch.inputs, mixing.apply, lambda name, part: mixing.apply(part)),
        strong=mix(batch.strong),
        weak=mix(batch.weak),
        valid=batch.valid | batch.valid[mixing.partner],
        mixing=mixing,
    )


def frame_shift(
    batch: Batch, rng: np.random.Generator, *, max_seconds: float = 2.0, clip_seconds: float = 10.0
) -> Batch:
    """Roll every clip in time by its own random amount, targets too; what leaves at the end comes in at the start.

    Parameters
    ----------
    max_seconds : float    largest shift to either side
    clip_seconds : float    length of the clips
    """
    frames = batch.strong.shape[1]
    most = round(max_seconds / clip_seconds * frames)
    shifts = rng.integers(-most, most + 1, size=len(batch))
    # a padded clip would get its padding rolled into the middle
    shifts[~batch.valid.all(1).numpy()] = 0

    def roll(values: Tensor) -> Tensor:
        length = values.shape[1]
        return torch.stack(
            [row.roll(round(shift * length / frames), 0) for row, shift in zip(values, shifts, strict=True)]
        )

    move = lambda inputs: _map_inputs(inputs, roll, lambda name, part: roll(part))  # noqa: E731
    return batch.replace(inputs=move(batch.inputs), clean=move(batch.clean), strong=roll(batch.strong))


def time_mask(
    batch: Batch, rng: np.random.Generator, *, masks: int = 1, max_seconds: float = 0.5, clip_seconds: float = 10.0
) -> Batch:
    """Blank stretches of what the student reads; the targets stay, so it learns to bridge gaps.

    Parameters
    ----------
    masks : int    stretches per clip
    max_seconds : float    longest stretch
    clip_seconds : float    length of the clips
    """
    spans = rng.random((len(batch), masks, 2))

    def blank(values: Tensor) -> Tensor:
        values = values.clone()
        length = values.shape[1]
        longest = max_seconds / clip_seconds * length
        for row in range(len(batch)):
            for place, share in spans[row]:
                width = round(share * longest)
                start = round(place * (length - width))
                values[row, start : start + width] = 0
        return values

    return batch.replace(inputs=_map_inputs(batch.inputs, blank, lambda name, part: blank(part)))


def feature_noise(batch: Batch, rng: np.random.Generator, *, scale: float = 0.1) -> Batch:
    """Add noise to cached features, its strength relative to each feature's own spread in the batch.

    Parameters
    ----------
    scale : float    standard deviation of the noise in units of the feature's
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))

    def disturb(name: str, part: Tensor) -> Tensor:
        return part + scale * part.std((0, 1), keepdim=True) * torch.randn(part.shape, generator=generator)

    return batch.replace(inputs=_map_inputs(batch.inputs, lambda waveform: waveform, disturb))


def gain(batch: Batch, rng: np.random.Generator, *, max_db: float = 6.0) -> Batch:
    """Make every clip that the student reads louder or quieter by up to ``max_db`` decibel."""
    factors = torch.from_numpy(10 ** (rng.uniform(-max_db, max_db, size=(len(batch), 1)) / 20)).float()
    return batch.replace(inputs=_map_inputs(batch.inputs, lambda waveform: waveform * factors, lambda name, part: part))


def equalize(
    batch: Batch, rng: np.random.Generator, *, bands: int = 5, max_db: float = 6.0, probability: float = 0.5
) -> Batch:
    """Filter the student's waveforms with a random smooth frequency response, as other microphones and rooms would.

    Parameters
    ----------
    bands : int    support points of the response, evenly spaced on a log frequency axis
    max_db : float    largest boost or cut
    probability : float    chance that a clip is filtered

    Source
    ------
    FilterAugment (Nam et al., ICASSP 2022), here on the waveform.
    """
    gains = rng.uniform(-max_db, max_db, size=(len(batch), bands)) * (rng.random((len(batch), 1)) < probability)

    def filter_rows(waveform: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(waveform)
        bins = spectrum.shape[1]
        # support points from 1/128 of the Nyquist frequency up to it: seven octaves
        places = np.log2(np.maximum(np.arange(bins) / bins, 2**-7)) / 7 + 1
        curves = np.stack([np.interp(places, np.linspace(0, 1, bands), row) for row in gains])
        return torch.fft.irfft(spectrum * torch.from_numpy(10 ** (curves / 20)).float(), n=waveform.shape[1])

    return batch.replace(inputs=_map_inputs(batch.inputs, filter_rows, lambda name, part: part))


def _map_inputs(inputs: Inputs, on_waveform, on_embeddings) -> Inputs:
    waveform = None if inputs.waveform is None else on_waveform(inputs.waveform)
    return Inputs(waveform, {name: on_embeddings(name, part) for name, part in inputs.embeddings.items()})
