"""Clips of any length: the frames the grid predicts, at the times they say; official numbers where there are any."""

import pytest
import torch
from torch.nn import functional as F

from sedflow import plugins
from sedflow.encoders.beats import BEATs
from sedflow.frames import FrameGrid

SMALL = {"depth": 1, "dim": 32, "heads": 2}
NAMES = ("atst", "beats", "cnn", "passt")
RATE = 16_000


@pytest.fixture(scope="module", params=NAMES)
def encoder(request):
    settings = {key: value for key, value in SMALL.items() if key in plugins.settings_of("encoders", request.param)}
    torch.manual_seed(0)
    return plugins.build("encoders", {"name": request.param, **settings}).eval()


def noise(samples, clips=1):
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(samples))


# one sample; around half windows, tokens and time steps; around the position tables; AudioSet's 10.01 s; a minute
SAMPLES = [1, 256, 257, 639, 640, 641, 1024, 1025, 1600, 2799, 2801, 5999, 69_920]
SAMPLES += [159_999, 160_000, 160_001, 160_160, 160_480, 160_640, 160_641, 163_841, 333_333, 960_000]


@torch.no_grad()
@pytest.mark.parametrize("samples", SAMPLES)
def test_frames_are_what_the_grid_predicts(encoder, samples):
    embeddings = encoder(noise(samples))
    assert embeddings.shape == (1, FrameGrid(encoder.frame_rate).frames(samples / RATE), encoder.dim)
    assert embeddings.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("seconds", [3.0, 9.93, 12.34, 31.0])
@pytest.mark.parametrize("place", [0.15, 0.62, 0.9])
def test_a_click_is_where_it_is(encoder, seconds, place):
    without = 0.001 * noise(round(seconds * RATE))
    without[0, round(0.4 * seconds * RATE) :][:800] += 0.5  # the loudest of both: scaling by clip changes nothing
    click = without.clone()
    click[0, round(place * seconds * RATE) :][:800] += 0.3
    change = (encoder(click) - encoder(without)).norm(dim=2)[0]
    loudest = (change.argmax() + 0.5) / encoder.frame_rate
    assert loudest == pytest.approx(place * seconds + 0.025, abs=0.2)


@torch.no_grad()
@pytest.mark.parametrize("name", ["atst", "beats", "passt"])
def test_a_long_clip_begins_and_ends_like_its_first_and_last_window(name):
    torch.manual_seed(0)
    encoder = plugins.build("encoders", {"name": name, **SMALL}).eval()
    waveform = noise(25 * RATE)
    embeddings = encoder(waveform)
    alone = encoder(waveform[:, : 10 * RATE]), encoder(waveform[:, -10 * RATE :])
    torch.testing.assert_close(embeddings[:, :100], alone[0][:, :100], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeddings[:, -100:], alone[1][:, -100:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_frames_of_beats_are_pooled_as_each_published_system_does():
    waveform = noise(10 * RATE)
    torch.manual_seed(0)
    reference = BEATs(**SMALL).eval()
    tokens = reference.tokens(waveform).transpose(1, 2)
    assert tokens.shape == (1, SMALL["dim"], 496)
    steps = tokens.unflatten(2, (62, 8)).mean(dim=3)
    expected = {
        (25.0, "pooled"): F.adaptive_avg_pool1d(tokens, 250),
        (15.6, "pooled"): F.adaptive_avg_pool1d(tokens, 156),
        (25.0, "time"): F.adaptive_avg_pool1d(steps, 250),
        (6.2, "time"): steps,
    }
    for (frame_rate, kind), frames in expected.items():
        encoder = BEATs(**SMALL, frame_rate=frame_rate, tokens=kind).eval()
        encoder.load_state_dict(reference.state_dict())
        torch.testing.assert_close(encoder(waveform), frames.transpose(1, 2))


@torch.no_grad()
def test_beats_reads_longer_pieces_where_asked_to():
    encoder = BEATs(**SMALL, window_seconds=60).eval()
    waveform = noise(30 * RATE)
    tokens = encoder.tokens(waveform)
    pooled = F.adaptive_avg_pool1d(tokens.transpose(1, 2), 750).transpose(1, 2)
    torch.testing.assert_close(encoder(waveform), pooled)


@torch.no_grad()
@pytest.mark.parametrize(("name", "samples"), [("atst", RATE + 300), ("cnn", RATE + 500)])
def test_a_last_frame_that_is_partly_there_repeats_the_one_before(name, samples):
    encoder = plugins.build("encoders", {"name": name} | (SMALL if name == "atst" else {})).eval()
    embeddings = encoder(noise(samples))
    assert torch.equal(embeddings[:, -1], embeddings[:, -2])


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("beats", {"tokens": "mean"}, "neither 'pooled' nor 'time'"),
        ("beats", {"cfg": {"conv_poss": 64}}, "cfg has conv_poss; known are embed_dim"),
        ("atst", {"top_db_over": "all"}, "neither 'clip' nor 'batch'"),
        ("cnn", {"gate": "relu"}, "none of cg, glu"),
        ("cnn", {"scale": "none"}, "neither 'unit' nor 'symmetric'"),
        ("cnn", {"channels": [16, 32]}, "2 channels and 7 poolings"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_choices(name, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        plugins.build("encoders", {"name": name, **settings})
