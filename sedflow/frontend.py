"""Front ends that several encoders share: waveform → log mel, in float32 whatever the precision of the network."""

from __future__ import annotations

import math

import torch
from torch import nn


def hann_window(samples: int, n_fft: int, periodic: bool) -> torch.Tensor:
    """A Hann window of ``samples`` in the middle of ``n_fft`` zeros, shape (n_fft,)."""
    before = (n_fft - samples) // 2
    return nn.functional.pad(torch.hann_window(samples, periodic=periodic), (before, n_fft - samples - before))


def power_of(spectrum: torch.Tensor) -> torch.Tensor:
    """|z|² of a complex tensor, in one pass: more than twice as fast on a processor as a sum over an axis of two."""
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return torch.addcmul(real * real, imaginary, imaginary)


def kaldi_mel_bank(bands: int, n_fft: int, sample_rate: int, low_hz: float, high_hz: float) -> torch.Tensor:
    """Triangles that are linear in mel = 1127 ln(1 + f / 700), peak 1, shape (bands, n_fft / 2 + 1) float32.

    Kaldi computes n_fft / 2 bins; the Nyquist bin counts nothing.

    Source
    ------
    torchaudio 2.11, compliance/kaldi.py get_mel_banks: the same formula, in float32 as there.
    """
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    step = (high - low) / (bands + 1)
    left = low + torch.arange(bands).unsqueeze(1) * step
    centre, right = left + step, left + 2 * step
    mel = 1127.0 * torch.log(1.0 + sample_rate / n_fft * torch.arange(n_fft // 2) / 700.0)
    bank = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp(min=0)
    return nn.functional.pad(bank, (0, 1))


class FrontEnd(nn.Module):
    """A module of constants: half precision is for the network, the constants follow the device only."""

    def _apply(self, fn, recurse=True):
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


class LogMel(FrontEnd):
    """Pre-emphasis, power spectrum, Kaldi mel bank, logarithm, fixed shift and scale: (v + 4.5) / 5.

    Frame k is centred at sample k · hop; the number of frames is the number of hops begun.

    Parameters
    ----------
    sample_rate : int    Hz; the bank reaches from 0 Hz to 1 kHz below half of it
    n_fft, window, hop : int    samples
    periodic : bool    form of the Hann window
    floor, offset : float    log(max(mel, floor) + offset)
    jitter : bool
        In training, draw the edges of the bank anew for each batch: 0 Hz up to ``jitter_low_hz``, and up to 1 kHz
        either way.

    Source
    ------
    theMoro/EfficientSED 7bef42e models/transformers/frame_passt/preprocess.py
    fschmid56/EfficientAT models/preprocess.py
    """

    bands = 128
    jitter_low_hz = 9

    def __init__(
        self,
        sample_rate: int,
        *,
        n_fft: int,
        window: int,
        hop: int,
        periodic: bool = False,
        floor: float = 0.0,
        offset: float = 0.0,
        jitter: bool = False,
    ):
        super().__init__()
        self.sample_rate, self.n_fft, self.hop = sample_rate, n_fft, hop
        self.floor, self.offset, self.jitter = floor, offset, jitter
        self.register_buffer("window", hann_window(window, n_fft, periodic), persistent=False)
        self.register_buffer("bank", self._bank(0, sample_rate / 2 - 1000), persistent=False)

    def _bank(self, low_hz: float, high_hz: float) -> torch.Tensor:
        return kaldi_mel_bank(self.bands, self.n_fft, self.sample_rate, low_hz, high_hz)

    def _drawn_bank(self) -> torch.Tensor:
        low = int(torch.randint(self.jitter_low_hz + 1, ()))
        high = self.sample_rate / 2 - int(torch.randint(2000, ()))
        return self._bank(low, high).to(self.bank.device)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """(batch, samples) → (batch, bands, ceil(samples / hop)) float32."""
        with torch.autocast(waveform.device.type, enabled=False):
            waveform = waveform.float()
            # reflection needs more than half a window
            waveform = nn.functional.pad(waveform, (0, max(0, self.n_fft // 2 + 2 - waveform.shape[-1])))
            emphasised = waveform[:, 1:] - 0.97 * waveform[:, :-1]
            spectrum = torch.stft(emphasised, self.n_fft, self.hop, window=self.window, return_complex=True)
            power = power_of(spectrum)
            mel = (self._drawn_bank() if self.jitter and self.training else self.bank) @ power
            return (torch.log(mel.clamp(min=self.floor) + self.offset) + 4.5) / 5
