"""Device impulse responses: clips as other microphones would have recorded them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sedflow.augment import changed, changed_alike, tensor
from sedflow.dataset import Batch
from sedflow.ranges import Count, Share
from sedflow.responses import read_responses

DOMAIN = "waveform"


def device_impulse(
    batch: Batch, rng: np.random.Generator, *, folder: str, sample_rate: Count = 16_000, probability: Share = 0.5
) -> Batch:
    """Convolve clips with impulse responses of recording devices, for student and teacher alike.

    Parameters
    ----------
    folder : str    of audio files with one response each, e.g. those of MicIRP
    sample_rate : int    Hz, of the clips (a page's own unless set); the responses are brought to it
    probability : float    chance that a clip is convolved

    Raises
    ------
    FileNotFoundError    the folder is missing or holds no audio; found out when training starts

    Source
    ------
    Device impulse response augmentation (Morocutti et al., DCASE 2023); CP-JKU, DCASE 2024 Task 4.
    """
    responses = read_responses(folder, sample_rate)
    numbers = rng.integers(0, len(responses), size=len(batch))
    played = tensor(batch, rng.random(len(batch)) < probability)
    longest = max(len(response) for response in responses)
    kernels = np.zeros((len(batch), longest), dtype=np.float32)
    for row, number in enumerate(numbers):
        kernels[row, : len(responses[number])] = responses[number]

    def convolve(waveform: Tensor) -> Tensor:
        samples = waveform.shape[1]
        size = samples + longest - 1
        spectrum = torch.fft.rfft(waveform, n=size) * torch.fft.rfft(tensor(batch, kernels), n=size)
        return torch.fft.irfft(spectrum, n=size)[:, :samples].where(played.unsqueeze(1), waveform)

    return changed_alike(batch, lambda inputs: changed(inputs, waveform=convolve))
