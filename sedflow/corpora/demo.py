"""Demo: sounds that the code makes itself, so that the pipeline runs anywhere. Its scores say nothing about real audio.

Every recording of a class has its own pitch, rhythm and length; training, validation and test have other recordings.
Two demos with different classes (and ``as``, ``prefix`` and ``seed`` of their own) stand for two corpora in one system.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np

from sedflow.corpora import Piece, Prepared, read_pieces
from sedflow.download import DATA
from sedflow.events import ClassSet, Event, LabelError, write_table
from sedflow.params import split_of
from sedflow.ranges import Count, Positive
from sedflow.synthesis import Recipe, soundscapes, write_piece

SOURCES = {
    "synthetic_strong": "strong",
    "real_strong": "strong",
    "soft": "soft",
    "weak": "weak",
    "unlabeled": "none",
    "validation": "strong",
    "test": "strong",
}
RECORDINGS = {"train": 8, "validation": 4, "test": 4}  # per class; half as many per texture
BACKGROUND_SECONDS = 20.0


class Demo:
    """Soundscapes of six synthetic classes over three synthetic textures.

    Parameters
    ----------
    sample_rate : int    Hz
    seconds : float    length of a soundscape
    synthetic_strong, real_strong, soft, weak, unlabeled, validation, test : int
        soundscapes of each source; 0 leaves the source out
    classes : list of str    some of the six; by default all of them
    copies : dict    class → labels of other corpora that it also stands for, see `sedflow.corpora`
    prefix : str    begins the name of every clip
    shards : int    jobs
    seed : int
    """

    uses_soundbank = True

    def __init__(  # noqa: PLR0913 (one count per source)
        self,
        *,
        sample_rate: Count = 16000,
        seconds: Positive = 10.0,
        synthetic_strong: int = 60,
        real_strong: int = 0,
        soft: int = 0,
        weak: int = 30,
        unlabeled: int = 30,
        validation: int = 24,
        test: int = 24,
        classes: list[str] | None = None,
        copies: dict[str, list[str]] | None = None,
        prefix: str = "",
        shards: Count = 2,
        seed: int = 1,
    ):
        counts = (synthetic_strong, real_strong, soft, weak, unlabeled, validation, test)
        self.clips = {source: count for source, count in zip(SOURCES, counts, strict=True) if count}
        self.sources = {source: SOURCES[source] for source in self.clips}
        onset = (seconds / 2, seconds / 5, 0.25, seconds - 0.5)
        self.recipe = Recipe(sample_rate, seconds, onset=onset, snr_db=(12.0, 30.0), pitch_semitones=(0.0, 0.0))
        self.shards = shards
        self.seed = seed
        self.prefix = prefix
        self.copies = copies or {}
        everything = ClassSet.read(DATA / "classes" / "demo.txt")
        if strangers := sorted(set(classes or ()) - set(everything)):
            raise LabelError(f"demo: no class {strangers[0]!r}; choose from {list(everything)}")
        self.classes = ClassSet(tuple(classes)) if classes else everything

    def download(self, raw: Path, mirror: Path | None = None) -> None:
        """Nothing to fetch: `soundbank` makes the recordings."""
        write_table(raw / "files.tsv", ("path", "sha256", "bytes"), [])

    def soundbank(self, raw: Path, audio: Path) -> list[Piece]:
        """Make the recordings of every class and split."""
        rate = self.recipe.sample_rate
        pieces = []
        events = {label: EVENTS[label] for label in self.classes}
        for split, count in RECORDINGS.items():
            for role, sounds, takes in (("foreground", events, count), ("background", TEXTURES, count // 2)):
                for label, make in sounds.items():
                    for k in range(takes):
                        rng = np.random.default_rng((self.seed, zlib.crc32(f"{label} {split}".encode()), k))
                        name = f"{label}_{split}{k}"
                        piece = Piece(name, role, label, 0.0, "", f"{label}/{split}{k}", split, split)
                        pieces.append(write_piece(audio / "soundbank", piece, make(rng, rate), rate))
        return pieces

    def prepare(self, manifest: Path, audio: Path, shard: int) -> Prepared:
        """Make every ``shards``-th soundscape of each source."""
        pieces = read_pieces(manifest)
        prepared = Prepared()
        for source, kind in self.sources.items():
            pool = [piece for piece in pieces if piece.split == split_of(source)]
            indices = range(shard, self.clips[source], self.shards)
            labels = "strong" if kind == "soft" else kind
            made = soundscapes(pool, self.recipe, audio, source, labels, indices, self.seed, self.prefix)
            if kind == "soft":
                made.strong = {clip: soften(events, self.recipe.seconds) for clip, events in made.strong.items()}
            prepared.add(made)
        return prepared


def soften(events: list[Event], seconds: float) -> list[Event]:
    """What a crowd might say second by second, as in MAESTRO: a class is as sure as the second is full of it."""
    segments = []
    for label in sorted({event.label for event in events}):
        for second in range(math.ceil(seconds)):
            begin, end = float(second), min(second + 1.0, seconds)
            heard = sum(
                max(0.0, min(event.offset, end) - max(event.onset, begin)) for event in events if event.label == label
            )
            confidence = round(min(1.0, heard / (end - begin)), 2)
            segments += [Event(begin, end, label, confidence)] if confidence else []
    return sorted(segments)


def _time(rate: int, seconds: float) -> np.ndarray:
    return np.arange(round(seconds * rate), dtype=np.float32) / rate


def _faded(waveform: np.ndarray, rate: int, seconds: float = 0.01) -> np.ndarray:
    ramp = np.minimum(1, _time(rate, len(waveform) / rate) / seconds)[: len(waveform)]
    return (waveform * ramp * ramp[::-1]).astype(np.float32)


def _beep(rng, rate):
    """A steady tone."""
    time = _time(rate, rng.uniform(0.5, 1.5))
    return _faded(np.sin(2 * np.pi * rng.uniform(900, 1300) * time), rate)


def _sweep(rng, rate):
    """A tone that rises over two to three octaves."""
    seconds = rng.uniform(0.8, 2.0)
    time = _time(rate, seconds)
    low, octaves = rng.uniform(250, 400), rng.uniform(2.2, 3.2)
    phase = low * seconds / (octaves * np.log(2)) * (2 ** (octaves * time / seconds) - 1)
    return _faded(np.sin(2 * np.pi * phase), rate)


def _knock(rng, rate):
    """Three to six damped low thumps."""
    gap, pitch = rng.uniform(0.12, 0.2), rng.uniform(140, 260)
    thump = _time(rate, gap)
    thump = np.exp(-thump * 35) * np.sin(2 * np.pi * pitch * thump)
    return _faded(np.tile(thump, int(rng.integers(3, 7))), rate, 0.002)


def _buzz(rng, rate):
    """A low tone with many harmonics."""
    time = _time(rate, rng.uniform(1.0, 3.0))
    pitch = rng.uniform(90, 140)
    return _faded(sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 25)), rate)


def _chirp(rng, rate):
    """A bird-like series of quick high glides."""
    seconds = rng.uniform(0.1, 0.14)
    time = _time(rate, seconds)
    low, depth = rng.uniform(2500, 3500), rng.uniform(1200, 2500)
    glide = low * time + depth * seconds / np.pi * (1 - np.cos(np.pi * time / seconds))
    call = np.sin(np.pi * time / seconds) * np.sin(2 * np.pi * glide)
    pause = np.zeros(round(0.05 * rate))
    return np.tile(np.concatenate([call, pause]), int(rng.integers(4, 9)))[: -len(pause)].astype(np.float32)


def _noise_burst(rng, rate):
    """White noise."""
    return _faded(rng.standard_normal(round(rng.uniform(0.4, 1.2) * rate)), rate)


def _texture(rng, rate, slope, bumps_hz):
    """Noise with a spectrum falling by ``slope`` dB per octave, swelling about ``bumps_hz`` times a second."""
    samples = round(BACKGROUND_SECONDS * rate)
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / rate), 20)
    noise = np.fft.irfft(spectrum * frequency ** (-slope / 6.02), samples)
    knots = rng.uniform(0.6, 1.0, round(BACKGROUND_SECONDS * bumps_hz) + 2)
    swell = np.interp(np.linspace(0, len(knots) - 1, samples), np.arange(len(knots)), knots)
    return (noise * swell / np.abs(noise).max()).astype(np.float32)


def _rumble(rng, rate):
    """A far road: mostly low frequencies."""
    return _texture(rng, rate, rng.uniform(5, 7), 0.5)


def _hiss(rng, rate):
    """A fan: nearly white, slightly falling."""
    return _texture(rng, rate, rng.uniform(0.5, 1.5), 0.2)


def _surf(rng, rate):
    """Waves: falling 3 dB per octave, swelling slowly."""
    return _texture(rng, rate, rng.uniform(2.5, 3.5), 0.3)


EVENTS = {
    "beep": _beep,
    "sweep": _sweep,
    "knock": _knock,
    "buzz": _buzz,
    "chirp": _chirp,
    "noise_burst": _noise_burst,
}
TEXTURES = {"rumble": _rumble, "hiss": _hiss, "surf": _surf}
