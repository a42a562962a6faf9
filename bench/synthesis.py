"""Soundscapes per second on one core, against plain Scaper in a loop.

The same scenes: plain Scaper reads them from our JAMS files, writes WAV and JAMS, and must give our audio. Ours also
draws the scenes, checks the peak and redraws what would clip, encodes FLAC and takes sums. A third candidate is the
loop that everyone writes: Scaper draws for itself, from the same soundbank.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
from common import compare, surroundings, table, write

from sedflow import audio, compat
from sedflow.corpora.demo import Demo
from sedflow.synthesis import Recipe, soundscapes

COUNT = 12
RATE = 16000


def main() -> None:
    """Make a soundbank, compare, and write the table."""
    compat.prepare_scaper()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pieces = [piece for piece in Demo(sample_rate=RATE).soundbank(folder, folder) if piece.split == "train"]
        ours = soundscapes(pieces, Recipe(RATE), folder / "ours", "train", "strong", range(COUNT), seed=1)
        jams = [Path(clip.path).with_suffix(".jams") for clip in ours.clips]
        candidates = {
            "sedflow": lambda: make(pieces, folder / "ours"),
            "Scaper, the same scenes": lambda: replay(jams, folder / "plain"),
            "Scaper, scenes of its own": lambda: plain(folder / "soundbank", folder / "drawn"),
        }
        timings = compare(candidates, equal, items=COUNT)
    note = f"{COUNT} soundscapes of 10 s at {RATE} Hz a round, pitch ± 2 semitones, in one process."
    shim = "Peer's shim: `np.Inf = np.inf` (Scaper 1.6.5 on NumPy 2)."
    where = surroundings("scaper", "soxbindings", "numpy", "soundfile")
    write("synthesis", "Soundscapes", [where, f"{note} {shim}", table(timings, "soundscapes")])


def make(pieces, out: Path) -> list[np.ndarray]:
    """Ours."""
    clips = soundscapes(pieces, Recipe(RATE), out, "train", "strong", range(COUNT), seed=1).clips
    return [audio.read(clip.path) for clip in clips]


def replay(jams: list[Path], out: Path) -> list[np.ndarray]:
    """Scaper makes the scenes that our JAMS files describe."""
    import scaper

    out.mkdir(exist_ok=True)
    paths = [(path, out / f"{path.stem}.wav") for path in jams]
    for path, wav in paths:
        scaper.generate_from_jams(str(path), str(wav), jams_outfile=str(wav.with_suffix(".jams")))
    return [audio.read(wav) for _, wav in paths]


def plain(bank: Path, out: Path) -> None:
    """Scaper as its tutorial uses it."""
    import scaper

    out.mkdir(exist_ok=True)
    for index in range(COUNT):
        scene = scaper.Scaper(10.0, str(bank / "foreground"), str(bank / "background"), random_state=index)
        scene.sr, scene.ref_db = RATE, -50
        scene.add_background(("choose", []), ("choose", []), ("uniform", 0, 10))
        for _ in range(3):
            scene.add_event(
                ("choose", []),
                ("choose", []),
                ("const", 0),
                ("truncnorm", 5, 2, 0.25, 9.5),
                ("const", 5),
                ("uniform", 6, 30),
                ("uniform", -2, 2),
                None,
            )
        wav = out / f"{index}.wav"
        scene.generate(
            str(wav), str(wav.with_suffix(".jams")), fix_clipping=True, txt_path=str(wav.with_suffix(".txt"))
        )


def equal(ours: list[np.ndarray], theirs: list[np.ndarray] | None) -> bool:
    """Within a 16-bit step; scenes that Scaper drew itself have no counterpart."""
    return theirs is None or all(np.abs(a - b).max() < 2 / 32768 for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
