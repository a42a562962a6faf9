"""Float32 is float32 on every device where numbers are kept or compared."""

import numpy as np
import pytest
import torch

from sedflow import audio, detector, features
from sedflow.events import Clip, write_clips
from sedflow.precision import full_float32


def rounding():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[(True, False), (True, True), (False, False)])
def before(request):
    usual = rounding()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = usual


def test_nothing_is_rounded_within_and_all_is_as_before_behind_it(before):
    with full_float32():
        assert rounding() == (False, False)
    assert rounding() == before
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert rounding() == before


def test_features_are_computed_in_full_float32(tmp_path, monkeypatch, before):
    class Encoder(torch.nn.Module):
        sample_rate, frame_rate, seen = 16_000, 1.0, []

        def forward(self, waveform):
            self.seen.append(rounding())
            return waveform.view(1, -1, 1)[:, :2]

    monkeypatch.setattr(detector, "build_encoder", lambda encoder, weights: Encoder())
    audio.write(tmp_path / "a.flac", np.zeros(32_000, np.float32), 16_000)
    write_clips(tmp_path / "clips.tsv", [Clip("a", "a.flac", 2.0, "0", "weak")])
    features.extract(
        {"name": "none"},
        None,
        tmp_path / "clips.tsv",
        "weak",
        0,
        1,
        tmp_path / "0.npy",
        clip_seconds=2.0,
        root=tmp_path,
    )
    assert Encoder.seen == [(False, False)] and rounding() == before
