"""ESC-10 (Piczak 2015): real recordings of ten classes, mixed to soundscapes with known events.

Seven classes are events, three are backgrounds. Folds say which recordings a source may use; the held-out fold is
halved by recording into validation and test. ``data/esc10.tsv`` holds sums and attribution of folds 1 to 4; those of
the fifth are unknown here, so settings may not ask for it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sedflow.audio import read
from sedflow.corpora import Piece, Prepared, read_pieces
from sedflow.download import DATA, Archive, fetch_files, read_sums
from sedflow.events import ClassSet
from sedflow.ranges import Count, Positive
from sedflow.synthesis import Cut, Recipe, find_events, loop, soundscapes, write_piece

ARCHIVE = Archive(
    url="https://github.com/karolpiczak/ESC-10/archive/553c8f1743b9dba6b282e1323c3ca8fa76923448.zip",
    folder="ESC-10-553c8f1743b9dba6b282e1323c3ca8fa76923448",
)
FOLDS = {"synthetic_strong": [1, 2], "weak": [3], "unlabeled": [3], "heldout": [4]}
CLIPS = {"synthetic_strong": 600, "weak": 300, "unlabeled": 300, "validation": 120, "test": 120}
SOURCES = {
    "synthetic_strong": "strong",
    "weak": "weak",
    "unlabeled": "none",
    "validation": "strong",
    "test": "strong",
}
BACKGROUNDS = ("rain", "sea_waves", "fire_crackling")
WHOLE = Cut(whole=True)  # a train of ticks is one event, a motor runs on
CUTS = {
    "dog_bark": Cut(gap=0.3),
    "baby_cry": Cut(gap=0.4),
    "clock_tick": WHOLE,
    "person_sneeze": Cut(gap=0.3),
    "helicopter": WHOLE,
    "chainsaw": WHOLE,
    "rooster": Cut(gap=0.5),
}
LOOP_FADE_SECONDS = 0.5


class ESC10:
    """Soundscapes of ESC-10 recordings.

    Parameters
    ----------
    sample_rate : int    of the pieces and soundscapes, Hz
    seconds : float    length of a soundscape
    folds : dict    synthetic_strong, weak, unlabeled and heldout (validation and test) → folds of ESC-10
    clips : dict    source → number of soundscapes
    shards : int    jobs
    seed : int
    ref_db, events, onset, snr_db, pitch_semitones, merge_gap, min_seconds : see `synthesis.Recipe`
    allow_missing : int    so many recordings may be absent
    """

    uses_soundbank = True

    def __init__(  # noqa: PLR0913 (a recipe has many ingredients)
        self,
        *,
        sample_rate: Count = 16000,
        seconds: Positive = 10.0,
        folds: dict[str, list[int]] | None = None,
        clips: dict[str, int] | None = None,
        shards: Count = 4,
        seed: int = 1,
        ref_db: float = -50.0,
        events: tuple[float, float, float, float] = (3.0, 1.0, 1.0, 5.0),
        onset: tuple[float, float, float, float] = (5.0, 2.0, 0.25, 9.5),
        snr_db: tuple[float, float] = (6.0, 30.0),
        pitch_semitones: tuple[float, float] = (-2.0, 2.0),
        merge_gap: float = 0.15,
        min_seconds: float = 0.25,
        allow_missing: int = 0,
    ):
        self.folds = _with_defaults("folds", FOLDS, folds)
        self.clips = _with_defaults("clips", CLIPS, clips)
        self.shards = shards
        self.seed = seed
        self.allow_missing = allow_missing
        self.recipe = Recipe(
            sample_rate, seconds, ref_db, events, onset, snr_db, pitch_semitones, merge_gap, min_seconds
        )
        self.sources = {source: SOURCES[source] for source, count in self.clips.items() if count}
        self.classes = ClassSet.read(DATA / "classes" / "esc10.txt")
        training = {fold for source, of_source in self.folds.items() if source != "heldout" for fold in of_source}
        if shared := sorted(training & set(self.folds["heldout"])):
            raise ValueError(f"esc10: folds {shared} are both held out and trained on; give each fold one role")
        unknown = sorted((training | set(self.folds["heldout"])) - {int(row["fold"]) for row in self._recordings()})
        if unknown:
            raise ValueError(
                f"esc10: folds {unknown} are not in data/esc10.tsv, which lists the checksums of folds 1 to 4"
            )

    def download(self, raw: Path, mirror: Path | None = None) -> None:
        """Fetch the recordings of the folds in use, verified file by file against ``data/esc10.tsv``."""
        used = {str(fold) for folds in self.folds.values() for fold in folds}
        rows = [row for row in self._recordings() if row["fold"] in used]
        fetch_files(rows, raw, ARCHIVE, mirror / "esc10" if mirror else None, self.allow_missing)

    def soundbank(self, raw: Path, audio: Path) -> list[Piece]:
        """Cut the recordings into events, loop the backgrounds, and say who may hear what."""
        from tqdm import tqdm

        rows = [row for row in self._recordings() if (raw / row["path"]).is_file()]
        split = self._splits(rows)
        pieces = []
        for row in tqdm(rows, desc="soundbank", unit="recording", disable=None):
            label, recording = _label(row), f"freesound/{row['freesound_id']}"  # as other corpora call it
            role = "background" if label in BACKGROUNDS else "foreground"
            stem = Path(row["path"]).stem
            piece = Piece(stem, role, label, 0.0, "", recording, row["fold"], split[row["freesound_id"]])
            pieces += self._cut(raw / row["path"], piece, audio / "soundbank")
        return pieces

    def prepare(self, manifest: Path, audio: Path, shard: int) -> Prepared:
        """Make every ``shards``-th soundscape of each source."""
        pieces = read_pieces(manifest)
        prepared = Prepared()
        for source, kind in self.sources.items():
            indices = range(shard, self.clips[source], self.shards)
            pool = self._pool(pieces, source)
            prepared.add(soundscapes(pool, self.recipe, audio, source, kind, indices, self.seed))
        return prepared

    def _recordings(self) -> list[dict[str, str]]:
        return read_sums(DATA / "esc10.tsv")

    def _cut(self, path: Path, piece: Piece, folder: Path) -> list[Piece]:
        rate = self.recipe.sample_rate
        waveform = read(path, rate)
        if piece.role == "background":
            begin, end = find_events(waveform, rate, WHOLE)[0]
            long = loop(waveform[begin:end], round(2 * self.recipe.seconds * rate), round(LOOP_FADE_SECONDS * rate))
            return [write_piece(folder, piece, long, rate)]
        spans = find_events(waveform, rate, CUTS[piece.label], self.recipe.min_seconds)
        return [
            write_piece(folder, dataclasses.replace(piece, path=f"{piece.path}_{k}"), waveform[begin:end], rate)
            for k, (begin, end) in enumerate(spans)
        ]

    def _splits(self, rows) -> dict[str, str]:
        """Freesound id → train, validation or test; the held-out recordings of a class take turns."""
        split = {row["freesound_id"]: "train" for row in rows}
        heldout = [row for row in rows if int(row["fold"]) in self.folds["heldout"]]
        for label in sorted({_label(row) for row in heldout}):
            ids = sorted({row["freesound_id"] for row in heldout if _label(row) == label}, key=int)
            split |= {recording: ("validation", "test")[k % 2] for k, recording in enumerate(ids)}
        return split

    def _pool(self, pieces: list[Piece], source: str) -> list[Piece]:
        if source in ("validation", "test"):
            return [piece for piece in pieces if piece.split == source]
        folds = {str(fold) for fold in self.folds[source]}
        return [piece for piece in pieces if piece.split == "train" and piece.fold in folds]


def _label(row) -> str:
    return row["path"].split("/")[0].split(" - ")[1].lower().replace(" ", "_")


def _with_defaults(setting: str, defaults: dict, given: dict | None) -> dict:
    if unknown := sorted(set(given or {}) - set(defaults)):
        raise ValueError(f"esc10: {setting} has no entry {unknown[0]!r}; choose from {sorted(defaults)}")
    return {**defaults, **(given or {})}
