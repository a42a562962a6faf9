"""Mel spectrograms, in float32 whatever the precision of the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sedflow.frontend import FrontEnd, kaldi_mel_bank, power_of


class MelSpectrogram(FrontEnd):
    """Power or magnitude in mel bands; frame k is centred at sample k · hop.

    Parameters
    ----------
    sample_rate : int    Hz
    n_fft, hop : int    samples; the window is as long as the transform
    bands : int
    low_hz, high_hz : float    edges of the bank
    window : (n_fft,) float32
    power : int    2 for power, 1 for magnitude

    Source
    ------
    torchaudio 2.11 transforms.MelSpectrogram: HTK scale, no norm, reflected at both ends.
    """

    def __init__(
        self, sample_rate: int, *, n_fft: int, hop: int, bands: int, low_hz: float, high_hz: float, window, power
    ):
        super().__init__()
        self.n_fft, self.hop, self.power = n_fft, hop, power
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", htk_mel_bank(bands, n_fft, sample_rate, low_hz, high_hz), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) → (batch, bands, samples // hop + 1) float32."""
        with torch.autocast(waveform.device.type, enabled=False):
            # reflection needs more than half a window
            waveform = F.pad(waveform.float(), (0, max(0, self.n_fft // 2 + 1 - waveform.shape[1])))
            spectrum = torch.stft(waveform, self.n_fft, self.hop, window=self.window, return_complex=True)
            energy = power_of(spectrum)
            return self.bank @ (energy if self.power == 2 else energy.sqrt())


class KaldiFbank(FrontEnd):
    """Log energies in 128 mel bands of 16-bit audio; frame k begins at sample 160 · k and is 25 ms long.

    Source
    ------
    torchaudio 2.11 compliance.kaldi.fbank with its defaults, no dither: mean removed and pre-emphasis frame by frame,
    Povey window, frames that reach beyond the end dropped.
    """

    bands, hop, window = 128, 160, 400
    _n_fft = 512
    _floor = torch.finfo(torch.float32).eps
    _full_scale = 2.0**15

    def __init__(self, sample_rate: int):
        super().__init__()
        self.register_buffer("povey", torch.hann_window(self.window, periodic=False) ** 0.85, persistent=False)
        bank = kaldi_mel_bank(self.bands, self._n_fft, sample_rate, 20.0, sample_rate / 2)
        self.register_buffer("bank", bank.T.contiguous(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) → (batch, (samples - 240) // 160, bands) float32."""
        with torch.autocast(waveform.device.type, enabled=False):
            # on a processor a clip fits the cache and a batch does not
            parts = waveform.float().split(1 if waveform.device.type == "cpu" else len(waveform))
            return torch.cat([self._energies(part) for part in parts])

    def _energies(self, waveform: Tensor) -> Tensor:
        frames = (waveform * self._full_scale).unfold(1, self.window, self.hop)
        frames = frames - frames.mean(dim=2, keepdim=True)
        # the sample before a frame's first counts as equal to it
        before = torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
        windowed = torch.sub(frames, before, alpha=0.97) * self.povey
        return (power_of(torch.fft.rfft(windowed, self._n_fft)) @ self.bank).clamp(min=self._floor).log()


def htk_mel_bank(bands: int, n_fft: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles that are linear in Hz between centres even in mel = 2595 log10(1 + f / 700), peak 1.

    torchaudio's ``melscale_fbanks`` gives the same numbers, but no bank on the meta device.

    Returns
    -------
    (bands, n_fft // 2 + 1) float32
    """
    low, high = (2595.0 * math.log10(1.0 + edge / 700.0) for edge in (low_hz, high_hz))
    corners = 700.0 * (10.0 ** (torch.linspace(low, high, bands + 2) / 2595.0) - 1.0)
    widths = corners.diff().unsqueeze(1)
    distances = corners.unsqueeze(1) - torch.linspace(0, sample_rate // 2, n_fft // 2 + 1)  # (bands + 2, bins), Hz
    return torch.minimum(-distances[:-2] / widths[:-1], distances[2:] / widths[1:]).clamp(min=0)
