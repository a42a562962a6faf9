"""Audio files in and out; the only module that decodes audio.

Inside the project a waveform is mono float32, shape (samples,), and a file of ours is 16-bit FLAC.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sedflow import mp3
from sedflow.events import AUDIO_SUFFIXES
from sedflow.files import below, replacing

_BLOCK = 1 << 16  # samples decoded at a time
_TRAILER = 1 << 12  # bytes behind the audio that nobody wonders at
_REPAIR = "salvage the readable part with `ffmpeg -i in.wav -c:a flac out.flac`"
FULL_SCALE = 32767 / 32768  # largest positive 16-bit sample


class AudioError(ValueError):
    """An audio file cannot be used; the message names the file, what is wrong and the cure."""


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What the header of a file says: ``sample_rate`` in Hz, ``channels``, ``samples`` per channel."""

    sample_rate: int
    channels: int
    samples: int

    @property
    def seconds(self) -> float:
        """Length of the file."""
        return self.samples / self.sample_rate


def recordings(folder) -> list[Path]:
    """Audio files below a folder, in order of path; hidden ones (macOS: ``._dog.wav``) are ignored."""
    found = sorted(below(folder))
    return [path for path in found if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")]


def info(path) -> AudioInfo:
    """Read the header of an audio file.

    Raises
    ------
    AudioError    missing, zero bytes, not audio, no samples
    """
    with _opened(path) as file:
        return AudioInfo(file.samplerate, file.channels, file.frames)


def lengths(paths: Mapping[str, Path]) -> dict[str, float]:
    """Seconds of each recording.

    Raises
    ------
    AudioError    files that cannot be read, all of them counted and the first ten named
    """
    seconds, wrong = {}, []
    for clip, path in paths.items():
        try:
            seconds[clip] = info(path).seconds
        except AudioError as error:
            wrong.append(str(error))
    if wrong:
        listed = "\n  ".join(wrong[:10] + ["…"] * (len(wrong) > 10))
        raise AudioError(f"{len(wrong)} recordings cannot be used:\n  {listed}")
    return seconds


def read(path, sample_rate: int | None = None, onset: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """Read a file, or a part of it, as mono.

    Parameters
    ----------
    path : audio file of any rate and number of channels; channels are averaged
    sample_rate : int, optional    resample to this rate (Hz) with soxr HQ; by default the rate of the file
    onset, seconds : float    the part to read; at the end of the file it is as long as there is audio

    Returns
    -------
    (samples,) float32
        Peaks above 1 of float files are kept.

    Raises
    ------
    AudioError    what `info` raises, a file that ends before its header says, NaN or infinite samples, nothing left
                  at another rate
    """
    with _opened(path) as file:
        rate = file.samplerate
        begin = round(onset * rate)
        end = file.frames if seconds is None else min(file.frames, begin + round(seconds * rate))
        if not 0 <= begin < end:
            raise AudioError(
                f"{path}: no audio at {onset:g} s, the file is {file.frames / rate:.3f} s long; correct onset or label"
            )
        waveform = _decode(path, file, begin, end - begin)
    if not np.isfinite(waveform).all():
        first = int(np.argmin(np.isfinite(waveform))) + begin
        raise AudioError(f"{path}: sample {first} ({first / rate:.3f} s) is NaN or infinite; export the file again")
    resampled = waveform if sample_rate is None else resample(waveform, rate, sample_rate)
    if not len(resampled):
        raise AudioError(
            f"{path}: {len(waveform)} samples at {rate} Hz are none at {sample_rate} Hz; the recording is too short"
        )
    return resampled


def resample(waveform: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Change the sampling rate of a waveform (samples,) with soxr HQ."""
    if from_hz == to_hz:
        return waveform
    import soxr

    return soxr.resample(waveform, from_hz, to_hz, quality="HQ")


def write(path, waveform: np.ndarray, sample_rate: int) -> None:
    """Write a waveform (samples,) as 16-bit FLAC through a temporary name.

    Raises
    ------
    AudioError    NaN, infinite or clipping samples: they are the caller's mistake and are never hidden
    """
    import soundfile

    path = Path(path)
    if not np.isfinite(waveform).all():
        raise AudioError(f"{path}: refusing to write NaN or infinite samples")
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > 1:
        raise AudioError(
            f"{path}: refusing to write clipped audio, its peak is {peak:.3f}; lower the level before writing"
        )
    # through memory: libsndfile does not tell when the disk is full while it closes a file
    encoded = io.BytesIO()
    soundfile.write(encoded, np.clip(waveform, -1, FULL_SCALE), sample_rate, format="FLAC", subtype="PCM_16")
    with replacing(path) as unfinished:
        unfinished.write_bytes(encoded.getbuffer())


def silent(path) -> bool:
    """Whether every sample of a file is zero; no if it cannot be read."""
    try:
        return not read(path).any()
    except AudioError:
        return False


def _opened(path):
    """Open with libsndfile, or say why it cannot be opened."""
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: no such audio file; correct the path or add the recording")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file has zero bytes; download or copy it again")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(
            f"{path}: not readable as audio ({error}); convert it to WAV or FLAC, or copy it again"
        ) from None
    if file.frames <= 0:
        file.close()
        raise AudioError(f"{path}: the file holds no samples; remove it or record it again")
    if cut_short := _missing_end(path):
        file.close()
        raise AudioError(
            f"{path}: {cut_short}; the file is truncated or its header is wrong: copy it again, or {_REPAIR}"
        )
    if file.format == "MP3" and (wrong := mp3.misread(path, file.frames)):
        file.close()
        raise AudioError(f"{path}: {wrong}; write one with `ffmpeg -i in.mp3 -c copy out.mp3`")
    return file


def _missing_end(path: Path) -> str:
    """What shows that a WAV or Ogg file is cut short or has more audio than it says; libsndfile reads on in silence."""
    with path.open("rb") as file:
        magic = file.read(12)
        size = path.stat().st_size
        if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
            while len(head := file.read(8)) == 8:
                length = int.from_bytes(head[4:], "little")
                if head[:4] == b"data":
                    left = size - file.tell()
                    unknown = length in (0, 0x7FFFFFFF, 0xFFFFFFFF)  # written by a stream that could not go back
                    file.seek(min(length + length % 2, left), 1)
                    names_chunk = all(32 <= byte < 127 for byte in file.read(4))
                    too_short = left < length
                    too_long = left > 2 * length + _TRAILER and not names_chunk
                    wrong = (too_short or too_long) and not unknown
                    return f"the header promises {length} bytes of audio, {left} are there" if wrong else ""
                file.seek(length + length % 2, 1)
        elif magic[:4] == b"OggS":
            file.seek(max(0, size - 2 * 65307))  # a page is at most so long
            tail = file.read()
            last_page = tail.rfind(b"OggS")
            return "" if tail[last_page + 5] & 4 else "the last page of the stream is missing"
    return ""


def _decode(path, file, begin: int, samples: int) -> np.ndarray:
    """Samples [begin, begin + samples) of an open file as (samples,) float32, channels averaged."""
    import soundfile

    mono = np.empty(samples, dtype=np.float32)
    done = 0
    try:
        file.seek(begin)
        while done < samples:
            # in blocks, and channel by channel: mean(axis=1) of a whole stereo file takes five times as long
            block = file.read(min(_BLOCK, samples - done), dtype="float32", always_2d=True)
            if not len(block):
                break
            part = mono[done : done + len(block)]
            part[:] = block[:, 0]
            for channel in range(1, block.shape[1]):
                part += block[:, channel]
            if block.shape[1] > 1:
                part /= block.shape[1]
            done += len(block)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: decoding failed ({error}); the file is truncated, copy it again") from None
    if file.format == "MP3" and 0 < samples - done < mp3.FRAME_SAMPLES:
        return mono[:done]  # without a header the length is a guess from the bit rate, right to a frame
    if done != samples:
        raise AudioError(
            f"{path}: the header promises {begin + samples} samples, the file ends after {begin + done}; "
            f"it is truncated or its header is wrong: copy it again, or {_REPAIR}"
        )
    return mono
