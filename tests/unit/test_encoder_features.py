"""Encoders that are given features, as augmentation before the network does: long, short and damaged clips."""

import pytest
import torch

from sedflow import plugins
from sedflow.encoders.beats import BEATs
from sedflow.waveform import completed

SMALL = {"depth": 1, "dim": 32, "heads": 2}
RATE = 16_000


def noise(samples):
    return 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))


def built(name, **settings):
    known = plugins.settings_of("encoders", name)
    torch.manual_seed(0)
    small = {key: value for key, value in ({"width": 0.4} | SMALL).items() if key in known}
    return plugins.build("encoders", {"name": name, **small, **settings}).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("atst", {}),
        ("atst", {"positions": 40}),
        ("passt", {}),
        ("passt", {"positions": 40}),
        ("beats", {}),
        ("beats", {"frame_rate": 15.6}),
        ("beats", {"window_seconds": 3.3}),
    ],
)
@pytest.mark.parametrize("seconds", [9.99, 10.05, 15.0, 23.31])
def test_features_of_a_long_clip_are_read_in_windows_as_its_waveform_is(name, settings, seconds):
    encoder, waveform = built(name, **settings), noise(int(seconds * RATE))
    expected = encoder(waveform)
    has_spectrogram = hasattr(encoder, "spectrogram")
    features = encoder.features(encoder.spectrogram(waveform)) if has_spectrogram else encoder.log_mel(waveform)
    embeddings = encoder.from_log_mel(features, waveform.shape[1] / RATE)
    assert embeddings.shape == expected.shape
    # a window's mel is cut from that of the clip, to 10 ms: it differs a little, and BEATs' last step may be missing
    assert torch.cosine_similarity(embeddings, expected, dim=2)[:, :-5].min() > 0.97
    assert (embeddings.diff(dim=1).abs().amax(dim=2)[:, :-1] > 0).all()


@torch.no_grad()
def test_features_of_a_clip_become_as_many_frames_as_its_seconds_are():
    encoder = built("mobilenet")
    log_mel = encoder.log_mel(noise(10 * RATE))
    assert encoder.from_log_mel(log_mel, 10.0).shape[1] == 250
    assert encoder.from_log_mel(log_mel, 10.03).shape[1] == 251
    with pytest.raises(ValueError, match="longer than the encoder reads in one piece"):
        encoder.from_log_mel(log_mel, 15.0)


@torch.no_grad()
def test_of_a_clips_frames_one_may_be_missing_and_no_more():
    embeddings = torch.randn(1, 250, 4)
    assert completed(embeddings, 251).shape == (1, 251, 4)
    with pytest.raises(ValueError, match=r"250 embeddings for a clip of 375 frames.* shorter clips"):
        completed(embeddings, 375)
    atst = built("atst")
    features = atst.features(atst.spectrogram(noise(15 * RATE)))
    with pytest.raises(ValueError, match="position table"):
        atst.encode(features)


@torch.no_grad()
@pytest.mark.parametrize("name", ["beats", "mobilenet", "passt"])
def test_log_mel_of_a_damaged_waveform_is_refused(name):
    encoder, damaged = built(name), noise(RATE)
    damaged[0, 5] = float("nan")
    with pytest.raises(ValueError, match=r"clip 0 .* nan"):
        encoder.log_mel(damaged)


@torch.no_grad()
@pytest.mark.parametrize("samples", [100, 400, 1000, 2799])
def test_what_is_too_short_for_a_patch_is_refused_as_such(samples):
    encoder = BEATs(**SMALL).eval()
    with pytest.raises(ValueError, match=f"{samples} samples; a patch of BEATs needs 2800"):
        encoder.tokens(noise(samples))
    assert encoder.tokens(noise(2800)).shape == (1, 8, 32)
    with pytest.raises(ValueError, match="too short for one token"):
        built("atst").encode(torch.zeros(1, 64, 3))


def test_a_dropout_of_everything_leaves_zeros():
    encoder = built("cnn", dropout=1.0).train()
    assert torch.equal(encoder(noise(RATE)), torch.zeros(1, 16, encoder.dim))
