"""Soundbank and soundscapes: recordings → pieces → Scaper → clips with events.

Every draw is made here, from a generator that belongs to one soundscape, and handed to Scaper as a constant. So a
soundscape depends on its seed, source and index alone, and on Scaper's arithmetic, never on shards or order.
"""

from __future__ import annotations

import dataclasses
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sedflow import audio, compat
from sedflow.corpora import Piece, Prepared
from sedflow.events import Clip, Event, merge_events
from sedflow.files import sha256, write_text

# sox clips at 1: a piece keeps room for the overshoot of pitch shifting. Scaper sets the level anyway.
PIECE_PEAK = 0.5
SOUNDSCAPE_PEAK = 0.99
# below the loudest moment of a recording: padding, and sounds that are not its event
DIGITAL_SILENCE_DB = -60.0
EVENT_RANGE_DB = 12.0


class SynthesisError(ValueError):
    """A soundbank or a soundscape cannot be made; the message names the recording or the class and the cure."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a soundscape is drawn.

    ``events`` and ``onset`` are truncated normals (mean, sd, low, high), ``snr_db`` (against the background) and
    ``pitch_semitones`` are uniform (low, high); ``ref_db`` is the background's loudness in LUFS. Events of one class
    that lie closer than ``merge_gap`` seconds become one, events under ``min_seconds`` lose their label.

    Raises
    ------
    SynthesisError    a range that holds nothing, or events that begin after the end
    """

    sample_rate: int
    seconds: float = 10.0
    ref_db: float = -50.0
    events: tuple[float, float, float, float] = (3.0, 1.0, 1.0, 5.0)
    onset: tuple[float, float, float, float] = (5.0, 2.0, 0.25, 9.5)
    snr_db: tuple[float, float] = (6.0, 30.0)
    pitch_semitones: tuple[float, float] = (-2.0, 2.0)
    merge_gap: float = 0.15
    min_seconds: float = 0.25

    def __post_init__(self):
        for name in ("events", "onset", "snr_db", "pitch_semitones"):
            *normal, low, high = getattr(self, name)
            mean, sd = normal or ((low + high) / 2, 0.0)
            if low > high or mean + 5 * sd < low or mean - 5 * sd > high:
                raise SynthesisError(f"{name}: no value lies between {low:g} and {high:g}; correct them, or `seconds`")
        if self.onset[3] >= self.seconds:
            raise SynthesisError(
                f"onset: events may begin at {self.onset[3]:g} s, but soundscapes last {self.seconds:g} s; lower the "
                "last number of `onset`, or raise `seconds`"
            )


@dataclasses.dataclass(frozen=True)
class Cut:
    """How recordings of a class are cut into events.

    ``gap`` is the longest pause inside one event in seconds; ``whole`` makes one event from first to last sound.
    """

    gap: float = 0.15
    whole: bool = False


def find_events(waveform: np.ndarray, sample_rate: int, cut: Cut, min_seconds: float = 0.25):
    """Where the sounds of a recording begin and end.

    The recording's own noise floor decides what a pause is: a fixed level lets noisy recordings run on through their
    pauses and cuts the tails off clean ones. What stays far below the loudest event is noise, breath or a neighbour.

    Parameters
    ----------
    waveform : (samples,)
    sample_rate : int    Hz
    cut : Cut
    min_seconds : float    shorter events are lengthened into their own decay

    Returns
    -------
    list of (begin, end) in samples
    """
    import librosa

    frame, hop = round(0.02 * sample_rate), round(0.005 * sample_rate)
    rms = librosa.feature.rms(y=waveform, frame_length=frame, hop_length=hop)[0]
    level = 20 * np.log10(np.maximum(rms, 1e-10) / max(rms.max(), 1e-10))
    floor = np.percentile(level[level > DIGITAL_SILENCE_DB], 10)
    below_peak = 50.0 if cut.whole else float(np.clip(-(floor + 15), 20, 35))
    spans = librosa.effects.split(waveform, top_db=below_peak, frame_length=frame, hop_length=hop)
    joined: list[list[int]] = []
    for begin, end in spans.tolist():
        if joined and (cut.whole or begin - joined[-1][1] < cut.gap * sample_rate):
            joined[-1][1] = end
        else:
            joined.append([begin, end])
    shortest = round(min_seconds * sample_rate)
    events = []
    for begin, end in joined:
        loudest = level[begin // hop : end // hop + 1].max()
        if loudest > -EVENT_RANGE_DB and end - begin >= shortest / 3:
            end = min(len(waveform), max(end, begin + shortest))
            events.append((min(begin, max(0, end - shortest)), end))
    return events


def loop(waveform: np.ndarray, samples: int, fade: int) -> np.ndarray:
    """Repeat a texture to a length, one repetition fading into the next.

    Scaper would repeat a short background with an audible seam, and always start it at zero.

    Parameters
    ----------
    waveform : (n,)    at least twice as long as ``fade``
    samples : int    length of the result
    fade : int    length of the cross-fade in samples

    Returns
    -------
    (samples,)
    """
    if len(waveform) < 2 * fade:
        raise SynthesisError(f"a texture of {len(waveform)} samples is too short for a cross-fade of {fade}")
    rise = np.sin(np.linspace(0, np.pi / 2, fade)).astype(waveform.dtype)  # equal power: textures do not correlate
    out = waveform
    while len(out) < samples:
        seam = out[-fade:] * rise[::-1] + waveform[:fade] * rise
        out = np.concatenate([out[:-fade], seam, waveform[fade:]])
    return out[:samples]


def write_piece(folder: Path, piece: Piece, waveform: np.ndarray, sample_rate: int) -> Piece:
    """Write a piece's audio to ``folder/role/label/<path>.flac`` and complete its path, length and sum."""
    path = folder / piece.role / piece.label / f"{piece.path}.flac"
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak == 0:
        raise SynthesisError(f"{path}: recording {piece.recording} is silent; leave it out")
    audio.write(path, waveform * np.float32(PIECE_PEAK / peak), sample_rate)
    return dataclasses.replace(piece, path=path.as_posix(), seconds=len(waveform) / sample_rate, sha256=sha256(path))


def soundscapes(
    pieces: Sequence[Piece],
    recipe: Recipe,
    out: Path,
    source: str,
    kind: str,
    indices: Sequence[int],
    seed: int,
    prefix: str = "",
) -> Prepared:
    """Make the soundscapes ``indices`` of a source.

    Parameters
    ----------
    pieces : the foregrounds and backgrounds this source may use
    recipe : Recipe
    out : Path    audio folder of the corpus; soundscape 7 of ``weak`` becomes ``out/weak/weak_00007.{flac,jams}``
    source, kind : str    its labels are ``strong``, ``weak`` or ``none``
    indices : global indices within the source
    seed : int
    prefix : str    begins the name of every clip

    Returns
    -------
    Prepared
        What a source hides from the learner is in the JAMS only.
    """
    from tqdm import tqdm

    pool = _pool(pieces, source)
    prepared = Prepared()
    for index in tqdm(indices, desc=f"soundscapes {source}", unit="clip", disable=None):
        rng = np.random.default_rng((seed, zlib.crc32(source.encode()), index))
        clip, events = _soundscape(pool, recipe, out / source / f"{prefix}{source}_{index:05d}.flac", source, rng)
        prepared.clips.append(clip)
        if kind == "strong":
            prepared.strong[clip.id] = events
        elif kind == "weak":
            prepared.weak[clip.id] = tuple(sorted({event.label for event in events}))
    return prepared


def _pool(pieces, source):
    """Pieces by role and label, in an order that does not depend on the file system."""
    pool: dict[str, dict[str, list[Piece]]] = {"foreground": {}, "background": {}}
    for piece in sorted(pieces, key=lambda piece: piece.path):
        pool[piece.role].setdefault(piece.label, []).append(piece)
    for role, labels in pool.items():
        if not labels:
            raise SynthesisError(f"{source}: the soundbank has no {role} for it; check the folds in the settings")
    return pool


def _soundscape(pool, recipe: Recipe, path: Path, source: str, rng) -> tuple[Clip, list[Event]]:
    background, source_time = _draw_background(pool["background"], recipe, rng)
    count = round(_truncated_normal(rng, *recipe.events))
    drawn = [_draw_event(pool["foreground"], recipe, rng) for _ in range(count)]
    drawn.sort(key=lambda event: event["onset"])  # the order in which JAMS keeps them
    for redrawn in range(100):  # noqa: B007 (told in the JAMS)
        waveform, jam, peaks = _generate(background, source_time, drawn, recipe)
        if np.abs(waveform).max() <= SOUNDSCAPE_PEAK:
            break
        # the loudest event gets a lower SNR from the same range; normalising would change the whole clip's level
        loudest = int(np.argmax(peaks))
        low, now = recipe.snr_db[0], drawn[loudest]["snr"]
        drawn[loudest]["snr"] = float(rng.uniform(low, now))
    else:
        raise SynthesisError(f"{path}: clips at every SNR down to {recipe.snr_db[0]} dB; lower ref_db or snr_db")
    audio.write(path, waveform, recipe.sample_rate)
    _save_jams(jam, path, source, redrawn)
    scene = jam.annotations[0].data
    foreground = [
        Event(o.time, o.time + o.duration, o.value["label"]) for o in scene if o.value["role"] == "foreground"
    ]
    recordings = sorted({background.recording} | {event["piece"].recording for event in drawn})
    clip = Clip(path.stem, path.as_posix(), recipe.seconds, sha256(path), source, tuple(recordings))
    return clip, merge_events(foreground, recipe.merge_gap, recipe.min_seconds)


def _draw_background(pool, recipe, rng) -> tuple[Piece, float]:
    label = rng.choice(sorted(pool))
    piece = pool[label][rng.integers(len(pool[label]))]
    if piece.seconds < recipe.seconds:
        raise SynthesisError(f"{piece.path}: background of {piece.seconds:.2f} s; loop it to {recipe.seconds} s first")
    return piece, float(rng.uniform(0, piece.seconds - recipe.seconds))


def _draw_event(pool, recipe, rng) -> dict:
    label = rng.choice(sorted(pool))
    piece = pool[label][rng.integers(len(pool[label]))]
    onset = round(_truncated_normal(rng, *recipe.onset), 3)
    # Scaper would move an event that does not fit, and pile long ones up at one onset: cut it at the clip's end
    seconds = min(piece.seconds, round(recipe.seconds - onset, 3))
    snr, pitch = float(rng.uniform(*recipe.snr_db)), float(rng.uniform(*recipe.pitch_semitones))
    return {"piece": piece, "onset": onset, "seconds": seconds, "snr": snr, "pitch": pitch}


def _truncated_normal(rng, mean, sd, low, high) -> float:
    while not low <= (value := float(rng.normal(mean, sd))) <= high:
        pass
    return value


def _generate(background: Piece, source_time: float, drawn, recipe: Recipe):
    """One run of Scaper, in a new object (a used one gets slower with every soundscape).

    Returns
    -------
    (waveform (samples,), JAMS, peak of each event)
    """
    compat.prepare_scaper()
    import scaper

    path = Path(background.path)
    roots = [path.parents[2] / role for role in ("foreground", "background")]
    scene = scaper.Scaper(recipe.seconds, *map(str, roots), random_state=0)
    scene.sr, scene.ref_db = recipe.sample_rate, recipe.ref_db
    scene.add_background(("const", background.label), ("const", background.path), ("const", source_time))
    for event in drawn:
        scene.add_event(
            label=("const", event["piece"].label),
            source_file=("const", event["piece"].path),
            source_time=("const", 0.0),
            event_time=("const", event["onset"]),
            event_duration=("const", event["seconds"]),
            snr=("const", event["snr"]),
            pitch_shift=("const", event["pitch"]) if event["pitch"] else None,
            time_stretch=None,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        waveform, jam, _, parts = scene.generate()
    return waveform[:, 0].astype(np.float32), jam, [float(np.abs(part).max()) for part in parts[1:]]


def _save_jams(jam, path: Path, source: str, redrawn: int) -> None:
    jam.annotations[0].sandbox.scaper.soundscape_audio_path = path.name
    jam.sandbox.sedflow = {"source": source, "snr_redrawn": redrawn}
    write_text(path.with_suffix(".jams"), jam.dumps(indent=2))  # jam.save would serialise twice to validate
