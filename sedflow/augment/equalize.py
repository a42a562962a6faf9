"""Random frequency responses, on the waveform."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sedflow.augment import changed, tensor
from sedflow.dataset import Batch
from sedflow.ranges import Count, NotNegative, Share

DOMAIN = "waveform"


def equalize(
    batch: Batch, rng: np.random.Generator, *, bands: Count = 5, max_db: NotNegative = 6.0, probability: Share = 0.5
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
        return torch.fft.irfft(spectrum * tensor(batch, 10 ** (curves / 20)), n=waveform.shape[1])

    return batch.replace(inputs=changed(batch.inputs, waveform=filter_rows))
