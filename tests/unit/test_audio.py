"""Audio in and out, and a message for every file that cannot be used."""

import io

import numpy as np
import pytest
import soundfile

from sedflow import audio, mp3
from sedflow.audio import AudioError
from sedflow.listing import listing_digest

RATE = 44100


@pytest.fixture
def tone():
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)


def test_written_audio_reads_back_within_a_16_bit_step(tmp_path, tone):
    audio.write(tmp_path / "tone.flac", tone, RATE)
    assert np.abs(audio.read(tmp_path / "tone.flac") - tone).max() <= 1 / 32768
    assert audio.info(tmp_path / "tone.flac") == audio.AudioInfo(RATE, 1, len(tone))
    assert [path.name for path in tmp_path.iterdir()] == ["tone.flac"]


def test_full_scale_survives_writing(tmp_path):
    square = np.tile(np.float32([1, -1]), 500)
    audio.write(tmp_path / "square.flac", square, RATE)
    assert np.abs(audio.read(tmp_path / "square.flac") - square).max() <= 1 / 32768


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        ("wav", "PCM_U8"),
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("flac", "PCM_16"),
        ("ogg", "VORBIS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
def test_formats_and_depths_give_the_same_sound(tmp_path, tone, suffix, subtype):
    path = tmp_path / f"tön e.{suffix}"
    soundfile.write(path, tone, RATE, subtype=subtype)
    middle = audio.read(path, onset=0.5, seconds=1.0)
    assert len(middle) == RATE
    assert abs(np.sqrt(np.mean(middle**2)) - 0.5 / np.sqrt(2)) < 0.02


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(tmp_path, tone, channels):
    stereo = tone[:, None] * np.linspace(0, 1, channels, dtype=np.float32)
    soundfile.write(tmp_path / "many.wav", stereo, RATE, subtype="FLOAT")
    assert np.allclose(audio.read(tmp_path / "many.wav"), tone * 0.5, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 96000])
def test_any_rate_becomes_the_one_asked_for(tmp_path, rate):
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    soundfile.write(tmp_path / "tone.wav", tone, rate, subtype="FLOAT")
    found = audio.read(tmp_path / "tone.wav", 16000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert len(found) == 16000
    assert np.abs(found - expected)[800:-800].max() < 2e-3


def test_a_part_equals_the_slice_of_the_whole(tmp_path, tone):
    audio.write(tmp_path / "tone.flac", tone, RATE)
    whole = audio.read(tmp_path / "tone.flac")
    assert np.array_equal(audio.read(tmp_path / "tone.flac", onset=0.25, seconds=0.5), whole[11025:33075])
    assert len(audio.read(tmp_path / "tone.flac", onset=1.5, seconds=2)) == RATE // 2


def test_a_part_beyond_the_end_is_refused(tmp_path, tone):
    audio.write(tmp_path / "tone.flac", tone, RATE)
    with pytest.raises(AudioError, match=r"no audio at 3 s, the file is 2.000 s long"):
        audio.read(tmp_path / "tone.flac", onset=3)


def test_one_sample_is_a_file(tmp_path):
    audio.write(tmp_path / "one.flac", np.float32([0.5]), RATE)
    assert audio.read(tmp_path / "one.flac").tolist() == [0.5]


def test_a_recording_of_which_resampling_leaves_nothing_is_named(tmp_path):
    soundfile.write(tmp_path / "click.wav", np.ones(1), 44100)
    with pytest.raises(audio.AudioError, match=r"click\.wav: 1 samples at 44100 Hz are none at 16000 Hz"):
        audio.read(tmp_path / "click.wav", 16000)


def test_float_peaks_above_one_are_kept_on_reading_and_refused_on_writing(tmp_path):
    loud = np.float32([0, 1.5, -2])
    soundfile.write(tmp_path / "loud.wav", loud, RATE, subtype="FLOAT")
    assert audio.read(tmp_path / "loud.wav").tolist() == loud.tolist()
    with pytest.raises(AudioError, match=r"peak is 2\.000; lower the level"):
        audio.write(tmp_path / "loud.flac", loud, RATE)
    assert not (tmp_path / "loud.flac").exists()


def _truncated(path, tone, suffix):
    whole = path.with_name(f"whole.{suffix}")
    soundfile.write(whole, tone, RATE)
    path = path.with_name(f"cut.{suffix}")
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_truncated_files_are_named(tmp_path, tone, suffix):
    path = _truncated(tmp_path / "x", tone, suffix)
    with pytest.raises(AudioError, match=rf"cut\.{suffix}: .*truncated.*copy it again"):
        audio.read(path)


def test_a_wav_header_that_lies_is_named(tmp_path, tone):
    soundfile.write(tmp_path / "lie.wav", tone, RATE, subtype="PCM_16")
    data = bytearray((tmp_path / "lie.wav").read_bytes())
    data[40:44] = (10 * len(tone)).to_bytes(4, "little")
    (tmp_path / "lie.wav").write_bytes(data)
    with pytest.raises(AudioError, match=r"lie\.wav: the header promises 882000 bytes of audio, 176400 are there"):
        audio.info(tmp_path / "lie.wav")


def test_a_wav_header_that_hides_most_of_the_audio_is_named(tmp_path, tone):
    path = tmp_path / "lie.wav"
    soundfile.write(path, tone, RATE, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    promised, audible = 1000, len(data) - 44
    data[40:44] = promised.to_bytes(4, "little")
    path.write_bytes(data[:44] + b"\x81" * promised + data[44 + promised :])
    with pytest.raises(
        AudioError, match=rf"lie\.wav: the header promises {promised} bytes of audio, {audible} are there"
    ):
        audio.info(path)
    comment = b"LIST" + (audible - promised - 8).to_bytes(4, "little")
    path.write_bytes(data[: 44 + promised] + comment + bytes(audible - promised - 8))
    assert audio.info(path).samples == promised // 2


def without_header(path, loud, mode, rate=44100, tag=b""):
    """An MP3 of five seconds whose first frame, which tells the length, is cut off."""
    waveform = np.zeros(5 * rate, np.float32)
    waveform[loud] = 0.1 * np.random.default_rng(0).standard_normal(len(waveform[loud]))
    written = io.BytesIO()
    soundfile.write(
        written, waveform, rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5
    )
    content = written.getvalue()
    path.write_bytes(content)
    assert not mp3.misread(path, 5 * rate)  # the header tells
    path.write_bytes(tag + content[content.index(content[:2], 4) :])
    return path


ID3 = b"ID3\x03\x00\x00\x00\x00\x00\x05title"


@pytest.mark.parametrize("tag", [b"", ID3])
@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("loud", [slice(0, 40000), slice(40000, None)])
def test_an_mp3_of_variable_bit_rate_needs_a_header(tmp_path, loud, rate, tag):
    path = without_header(tmp_path / "a.mp3", loud, "VARIABLE", rate, tag)
    with pytest.raises(
        AudioError, match=r"a\.mp3: no header gives its length: \d+ samples .*ffmpeg -i in\.mp3 -c copy"
    ):
        audio.info(path)


@pytest.mark.parametrize("tag", [b"", ID3])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_an_mp3_of_constant_bit_rate_needs_none(tmp_path, rate, tag):
    path = without_header(tmp_path / "a.mp3", slice(0, None), "CONSTANT", rate, tag)
    assert abs(len(audio.read(path)) - 5 * rate) <= 3 * 1152


def test_a_flac_header_that_lies_is_named(tmp_path, tone):
    soundfile.write(tmp_path / "lie.flac", tone, RATE)
    data = bytearray((tmp_path / "lie.flac").read_bytes())
    data[22:26] = (10 * len(tone)).to_bytes(4, "big")  # low bytes of the number of samples
    (tmp_path / "lie.flac").write_bytes(data)
    with pytest.raises(AudioError, match=r"lie\.flac: .*truncated"):
        audio.read(tmp_path / "lie.flac")


def test_a_streamed_wav_of_unknown_length_is_accepted(tmp_path, tone):
    soundfile.write(tmp_path / "pipe.wav", tone, RATE, subtype="PCM_16")
    data = bytearray((tmp_path / "pipe.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "pipe.wav").write_bytes(data)
    assert len(audio.read(tmp_path / "pipe.wav")) == len(tone)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.wav", None, "no such audio file"),
        ("zero.wav", b"", "zero bytes"),
        ("text.wav", b"not audio at all", "not readable as audio"),
        ("page.flac", b"<!DOCTYPE html><html></html>", "not readable as audio"),
    ],
)
def test_what_is_no_audio_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=f"{name}: .*{message}"):
        audio.read(tmp_path / name)


def test_a_file_without_samples_is_named(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(AudioError, match=r"empty\.wav: the file holds no samples"):
        audio.info(tmp_path / "empty.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_named(tmp_path, tone, value):
    tone[22050] = value
    soundfile.write(tmp_path / "nan.wav", tone, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav: sample 22050 \(0\.500 s\) is NaN or infinite"):
        audio.read(tmp_path / "nan.wav", 16000)
    with pytest.raises(AudioError, match="refusing to write"):
        audio.write(tmp_path / "nan.flac", tone, RATE)


def test_every_recording_of_the_mirror_is_whole(mirror_dir):
    files = sorted((mirror_dir / "esc10").rglob("*.ogg"))
    assert len(files) == 320
    assert all(3 < audio.info(path).seconds < 8 for path in files)


def test_recordings_behind_links_to_folders_are_there_and_circles_end(tmp_path):
    disk, own = tmp_path / "disk", tmp_path / "own"
    (disk / "2024").mkdir(parents=True)
    own.mkdir()
    (disk / "2024/dawn.wav").write_bytes(b"four")
    empty = listing_digest([str(own)])
    (own / "linked").symlink_to(disk)
    (disk / "back").symlink_to(own)
    assert audio.recordings(own) == [own / "linked/2024/dawn.wav"]
    assert listing_digest([str(own)]) != empty
