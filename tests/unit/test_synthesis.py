"""Recordings become pieces, pieces become soundscapes whose labels say what sounds."""

import dataclasses
import json

import jams
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedflow import audio
from sedflow.corpora import Piece, read_pieces, write_pieces
from sedflow.files import sha256
from sedflow.synthesis import (
    SOUNDSCAPE_PEAK,
    Cut,
    Recipe,
    SynthesisError,
    find_events,
    loop,
    soundscapes,
    write_piece,
)

RATE = 16000
RECIPE = Recipe(RATE)


def noise(seconds, level_db, seed=0):
    return (10 ** (level_db / 20) * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(
        np.float32
    )


def recording(*spans, seconds=5.0, floor_db=-80.0):
    """Noise bursts (begin, end, dB) over a noise floor."""
    waveform = noise(seconds, floor_db)
    for begin, end, level in spans:
        waveform[round(begin * RATE) : round(end * RATE)] += noise(end - begin, level, seed=1)
    return waveform


def seconds(spans):
    return [(pytest.approx(begin / RATE, abs=0.03), pytest.approx(end / RATE, abs=0.03)) for begin, end in spans]


@pytest.mark.parametrize("floor_db", [-100, -60, -45])
def test_events_are_found_over_any_noise_floor(floor_db):
    waveform = recording((1.0, 1.5, -20), (3.0, 4.0, -23), floor_db=floor_db)
    assert seconds(find_events(waveform, RATE, Cut(gap=0.3))) == [(1.0, 1.5), (3.0, 4.0)]


def test_a_pause_shorter_than_the_gap_belongs_to_the_event():
    waveform = recording((1.0, 1.5, -20), (1.7, 2.2, -20))
    assert seconds(find_events(waveform, RATE, Cut(gap=0.3))) == [(1.0, 2.2)]
    assert seconds(find_events(waveform, RATE, Cut(gap=0.1))) == [(1.0, 1.5), (1.7, 2.2)]


def test_a_whole_recording_is_one_event_without_its_padding():
    waveform = np.concatenate(
        [recording((0.1, 0.2, -10), (2.0, 2.1, -10), seconds=2.2, floor_db=-50), np.zeros(2 * RATE)]
    )
    (span,) = find_events(waveform.astype(np.float32), RATE, Cut(whole=True))
    assert span[1] <= 2.25 * RATE


def test_breath_and_noise_far_below_the_event_are_no_events():
    waveform = recording((1.0, 1.5, -20), (3.0, 3.5, -40))
    assert seconds(find_events(waveform, RATE, Cut())) == [(1.0, 1.5)]


@pytest.mark.parametrize("begin", [1.0, 4.85])
def test_a_short_bark_is_lengthened_to_the_minimum_within_the_recording(begin):
    waveform = recording((begin, begin + 0.15, -20))
    ((start, end),) = find_events(waveform, RATE, Cut(), min_seconds=0.25)
    assert end - start == 0.25 * RATE
    assert end <= len(waveform)


def test_a_loop_keeps_its_level_and_has_no_seam():
    texture = noise(2.0, -20)
    looped = loop(texture, 7 * RATE, RATE // 4)
    assert len(looped) == 7 * RATE
    power = np.mean(looped.reshape(-1, RATE // 4) ** 2, axis=1) / np.mean(texture**2)
    assert power.min() > 0.7 and power.max() < 1.4
    time = np.arange(2 * RATE) / RATE
    hum = loop(np.sin(2 * np.pi * 50 * time).astype(np.float32), 6 * RATE, RATE // 4)
    assert np.abs(np.diff(hum)).max() < 0.05


def test_a_loop_of_a_long_texture_is_its_beginning():
    texture = noise(2.0, -20)
    assert np.array_equal(loop(texture, RATE, RATE // 4), texture[:RATE])


def test_a_texture_too_short_to_fade_is_refused():
    with pytest.raises(SynthesisError, match="too short for a cross-fade"):
        loop(noise(0.1, -20), RATE, RATE // 4)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A soundbank of three classes: a long tone, a burst, and clicks that clip at high SNR."""
    folder = tmp_path_factory.mktemp("bank") / "soundbank"
    time = np.arange(5 * RATE) / RATE
    clicks = np.zeros(2 * RATE, dtype=np.float32)
    clicks[:: RATE // 2] = 1
    sounds = {
        ("foreground", "tone"): np.sin(2 * np.pi * 700 * time).astype(np.float32),
        ("foreground", "burst"): noise(0.3, -20),
        ("foreground", "click"): clicks,
        ("background", "hiss"): noise(20.0, -30),
    }
    return [
        write_piece(folder, Piece(label, role, label, 0.0, "", f"{label}/1", "1", "train"), sound, RATE)
        for (role, label), sound in sounds.items()
    ]


@pytest.fixture(scope="module")
def made(bank, tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    return soundscapes(bank, RECIPE, out, "validation", "strong", range(24), seed=3), out


def test_pieces_read_back(bank, tmp_path):
    write_pieces(tmp_path / "soundbank.tsv", bank)
    found = read_pieces(tmp_path / "soundbank.tsv")
    assert found == sorted(bank, key=lambda piece: piece.path)
    assert all(audio.info(piece.path).seconds == pytest.approx(piece.seconds, abs=1e-6) for piece in found)


def test_a_silent_piece_is_refused(tmp_path):
    with pytest.raises(SynthesisError, match="recording hum/7 is silent"):
        write_piece(tmp_path, Piece("x", "foreground", "hum", 0.0, "", "hum/7", "1", "train"), np.zeros(100), RATE)


def test_soundscapes_are_as_long_as_told_and_never_clip(made):
    prepared, _ = made
    assert len(prepared.clips) == 24
    for clip in prepared.clips:
        assert audio.info(clip.path) == audio.AudioInfo(RATE, 1, 10 * RATE)
        assert np.abs(audio.read(clip.path)).max() <= SOUNDSCAPE_PEAK
        assert sha256(clip.path) == clip.sha256


def test_events_lie_in_the_clip_and_late_ones_are_cut_at_its_end(made):
    prepared, _ = made
    events = [event for of_clip in prepared.strong.values() for event in of_clip]
    assert all(event.onset >= 0.25 and event.offset <= 10 + 1e-6 for event in events)
    assert all(event.offset - event.onset >= 0.25 - 1e-6 for event in events)
    tones = [event for event in events if event.label == "tone"]
    assert any(event.offset == pytest.approx(10) and event.onset > 5.1 for event in tones)
    assert sum(event.onset == pytest.approx(5.0) for event in tones) == 0  # where Scaper piles up what does not fit


def test_labels_say_what_sounds(made):
    """A 700 Hz tone (± 2 semitones) is there during its events and not elsewhere."""
    prepared, _ = made
    for clip in prepared.clips:
        tones = [event for event in prepared.strong[clip.id] if event.label == "tone"]
        if {event.label for event in prepared.strong[clip.id]} != {"tone"}:
            continue
        blocks = audio.read(clip.path).reshape(-1, RATE // 10) * np.hanning(RATE // 10)
        level = np.abs(np.fft.rfft(blocks, axis=1))[:, 60:81].max(axis=1)
        starts = np.arange(100) / 10
        inside = np.array([any(e.onset <= s and s + 0.1 <= e.offset for e in tones) for s in starts])
        outside = np.array([all(e.offset <= s or s + 0.1 <= e.onset for e in tones) for s in starts])
        assert level[inside].min() > 2 * np.median(level[outside])


def test_jams_are_valid_and_hold_every_event(made):
    prepared, out = made
    clip = prepared.clips[0]
    path = out / "validation" / f"{clip.id}.jams"
    assert jams.load(str(path), strict=True).annotations[0].namespace == "scaper"
    scene = json.loads(path.read_text())["annotations"][0]
    values = [observation["value"] for observation in scene["data"]]
    assert [value["role"] for value in values].count("background") == 1
    assert {value["label"] for value in values if value["role"] == "foreground"} >= {
        event.label for event in prepared.strong[clip.id]
    }
    assert scene["sandbox"]["scaper"]["soundscape_audio_path"] == f"{clip.id}.flac"


def test_what_would_clip_gets_a_lower_snr_and_the_jams_say_so(made):
    prepared, out = made
    redrawn = {}
    for clip in prepared.clips:
        told = json.loads((out / "validation" / f"{clip.id}.jams").read_text())
        redrawn[clip.id] = told["sandbox"]["sedflow"]["snr_redrawn"]
        for observation in told["annotations"][0]["data"]:
            if observation["value"]["role"] == "foreground":
                assert 6 <= observation["value"]["snr"] <= 30
        assert told["annotations"][0]["sandbox"]["scaper"]["ref_db"] == -50
    assert any(redrawn.values())


def test_a_recipe_that_always_clips_is_refused(bank, tmp_path):
    clicks = [piece for piece in bank if piece.label in ("click", "hiss")]
    with pytest.raises(SynthesisError, match=r"clips at every SNR down to 60.0 dB; lower ref_db or snr_db"):
        soundscapes(clicks, dataclasses.replace(RECIPE, snr_db=(60.0, 70.0)), tmp_path, "test", "strong", [0], seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 5.0}, "onset: events may begin at 9.5 s, but soundscapes last 5 s"),
        ({"onset": (0.2, 0.1, 0.25, -0.1)}, "onset: no value lies between 0.25 and -0.1"),
        ({"events": (20.0, 1.0, 1.0, 5.0)}, "events: no value lies between 1 and 5"),
        ({"snr_db": (30.0, 6.0)}, "snr_db: no value lies between 30 and 6"),
    ],
)
def test_a_recipe_that_nothing_could_be_drawn_by_is_refused(settings, message):
    with pytest.raises(SynthesisError, match=message):
        Recipe(RATE, **settings)


def test_recordings_name_the_background_too(made):
    prepared, _ = made
    for clip in prepared.clips:
        assert "hiss/1" in clip.recordings
        labels = {event.label for event in prepared.strong[clip.id]}
        assert {f"{label}/1" for label in labels} <= set(clip.recordings)


def test_the_result_does_not_depend_on_order_or_shards(made, bank, tmp_path):
    prepared, out = made
    for indices in ([3], [7, 1]):
        again = soundscapes(bank[::-1], RECIPE, tmp_path / "again", "validation", "strong", indices, seed=3)
        for clip in again.clips:
            first = next(other for other in prepared.clips if other.id == clip.id)
            assert (clip.sha256, clip.recordings) == (first.sha256, first.recordings)
            assert again.strong[clip.id] == prepared.strong[clip.id]
            scene = f"validation/{clip.id}.jams"
            assert (tmp_path / "again" / scene).read_bytes() == (out / scene).read_bytes()


def test_sources_and_seeds_have_streams_of_their_own(bank, tmp_path):
    sums = {
        soundscapes(bank, RECIPE, tmp_path / str(seed), source, "none", [index], seed).clips[0].sha256
        for seed in (1, 2)
        for source in ("weak", "test")
        for index in (0, 1)
    }
    assert len(sums) == 8


@pytest.mark.parametrize("kind", ["strong", "weak", "none"])
def test_a_source_tells_only_what_its_kind_may(bank, tmp_path, kind):
    prepared = soundscapes(bank, RECIPE, tmp_path, "some", kind, [0], seed=3)
    assert bool(prepared.strong) == (kind == "strong")
    assert bool(prepared.weak) == (kind == "weak")


def test_a_source_without_backgrounds_is_refused(bank, tmp_path):
    foregrounds = [piece for piece in bank if piece.role == "foreground"]
    with pytest.raises(SynthesisError, match="weak: the soundbank has no background for it"):
        soundscapes(foregrounds, RECIPE, tmp_path, "weak", "weak", [0], seed=1)


def test_a_background_that_was_not_looped_is_refused(bank, tmp_path):
    short = [dataclasses.replace(piece, seconds=4.0) for piece in bank]
    with pytest.raises(SynthesisError, match=r"background of 4\.00 s; loop it to 10\.0 s first"):
        soundscapes(short, RECIPE, tmp_path, "weak", "weak", [0], seed=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 9))
def test_truncated_normals_stay_in_their_range(seed, low):
    from sedflow.synthesis import _truncated_normal

    value = _truncated_normal(np.random.default_rng(seed), 5.0, 2.0, low, low + 1)
    assert low <= value <= low + 1
