"""DESED: ten domestic sounds (Turpault et al., 2019; Serizel et al., 2020), as DCASE Task 4 trains and tests on it.

The folder is DESED's own (``audio/train/weak``, ``metadata/train/weak.tsv`` …); copies resampled to 16 kHz beside a
folder (``weak_16k``) are read in its place. Tables, the synthetic set and the public evaluation set are downloaded
if the folder lacks them. Weak, unlabeled and strongly labelled real clips come from YouTube: they must be provided.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import numpy as np

from sedflow import desed_files
from sedflow.clips import cut_events, label_ends, write_clip
from sedflow.corpora import Piece, Prepared, read_pieces
from sedflow.desed_files import SETS, Table
from sedflow.download import DATA
from sedflow.events import ClassSet, LabelError
from sedflow.holdings import Allowance, excluded, find, read_holdings, video, write_holdings
from sedflow.ranges import Count, Positive
from sedflow.synthesis import Recipe, soundscapes

# a clip that stands in several sets is used in the first of these
PRECEDENCE = (
    "real_validation",
    "external_validation",
    "real_strong",
    "real_strong_atst",
    "external",
    "weak",
    "unlabeled",
)
CURE = (
    "Get them as described in the README of DESED (project.inria.fr/desed; its authors send missing files on request), "
    "put them into the folder of `path`, do without a set (`weak: false`, `unlabeled: false`)"
)

log = logging.getLogger(__name__)


class DESED:
    """Real and synthetic clips of DESED.

    Parameters
    ----------
    path : str    DESED's folder; by default it is looked for in the mirror (``desed``)
    strong : str    strongly labelled real clips: ``official`` (3 470), ``atst_sed`` (3 000 train, 373 validate) or none
    synthetic : str    ``official`` (10 000 and 2 500 soundscapes of 2021), ``scaper`` (see ``soundscapes``) or none
    external : bool    CP-JKU's list of further AudioSet clips with strong labels (7 383) trains as real_strong too
    validation : list of str    what validates: synthetic, strong (of atst_sed), external (its own part of that list)
    test : str    ``validation`` (1 168 clips, "dev-test") or ``public`` (692)
    weak, unlabeled : bool    whether these clips train
    weak_share : float    of the weak clips that train; the baselines leave the rest to validation by clip labels
    soundscapes : dict    with Scaper from DESED's soundbank: synthetic_strong, validation → number
    copies : dict    class → labels of other corpora that it also stands for, see `sedflow.corpora`
    exclude : str    table with the column ``filename``: clips that are left out because another corpus tests on them
    sample_rate : int    of the clips that are written, Hz
    seconds : float    longest clip
    shards : int    jobs
    seed : int    of the soundscapes
    allow_missing : int, dict    so many clips may be absent: of those that train, or by set ({weak: 9, validation: 3})
    """

    def __init__(  # noqa: PLR0913 (a corpus of many parts)
        self,
        *,
        path: str | None = None,
        strong: str = "official",
        synthetic: str = "official",
        external: bool = False,
        validation: list[str] | None = None,
        test: str = "validation",
        weak: bool = True,
        unlabeled: bool = True,
        weak_share: float = 0.9,
        soundscapes: dict[str, int] | None = None,
        copies: dict[str, list[str]] | None = None,
        exclude: str | None = None,
        sample_rate: Count = 16000,
        seconds: Positive = 10.0,
        shards: Count = 8,
        seed: int = 2021,
        allow_missing: int | dict[str, int] = 0,
    ):
        self.path = Path(path) if path else None
        self.classes = ClassSet.read(DATA / "classes" / "desed.txt")
        without_times = [*["weak"] * weak, *["unlabeled"] * unlabeled]
        self.sets = _chosen(strong, synthetic, external, without_times, validation or ["synthetic"], test)
        self.clips = _with_soundscapes(synthetic, soundscapes or {})
        self.uses_soundbank = synthetic == "scaper"
        kinds = {"weak": "weak", "unlabeled": "none"}
        self.sources = {source: kinds.get(source, "strong") for source in self.sets.values()}
        if self.uses_soundbank:
            self.sources |= {source: "strong" for source, count in self.clips.items() if count}
        onset = (seconds / 2, seconds / 5, 0.25, seconds - 0.5)
        self.recipe = Recipe(sample_rate, seconds, onset=onset, pitch_semitones=(-3.0, 3.0))
        self.weak_share, self.copies, self.exclude = weak_share, copies or {}, exclude
        self.sample_rate, self.seconds = sample_rate, seconds
        self.shards, self.seed, self.allowance = shards, seed, Allowance(allow_missing, self.sets)

    @functools.cached_property  # looked for once, though every job of a plan asks
    def label_files(self) -> list[Path]:
        """Tables in the user's folder and the one that excludes, for the workflow to watch."""
        folders = desed_files.roots(self.path, None) if self.path and self.path.is_dir() else []
        tables = [*filter(None, (desed_files.find_table(SETS[name], folders) for name in self.sets))]
        return [*tables, *([Path(self.exclude)] if self.exclude else [])]

    def download(self, raw: Path, mirror: Path | None = None) -> None:
        """Find or fetch the tables and the audio, drop what would leak, and list what is missing."""
        roots = desed_files.roots(self.path, mirror)
        tables = {name: desed_files.fetch_table(SETS[name], name, roots, raw) for name in self.sets}
        wanted = self._without_leaks(tables)
        folders = {name: desed_files.audio_folders(SETS[name], roots, raw) for name in self.sets}
        found, missing = find(wanted, folders)
        if self.uses_soundbank:
            desed_files.fetch_soundbank(roots, raw)
        strong = [name for name in self.sets if self.sources[self.sets[name]] == "strong"]
        labels = {name: desed_files.read_set(tables[name], name, self.classes) for name in strong}
        ends = {name: label_ends(labels[name], self.seconds) for name in strong}
        write_holdings(raw, found, missing, self.allowance, CURE, ends)

    def soundbank(self, raw: Path, audio: Path) -> list[Piece]:
        """Copy DESED's soundbank at our rate: its files are cut already."""
        return desed_files.soundbank_pieces(raw, audio / "soundbank", self.classes, self.recipe)

    def prepare(self, raw: Path, audio: Path, shard: int) -> Prepared:
        """Write every ``shards``-th clip, and make every ``shards``-th soundscape."""
        from tqdm import tqdm

        prepared = Prepared()
        if self.uses_soundbank:
            pieces = read_pieces(raw)
            for source in ("synthetic_strong", "validation"):
                split = "validation" if source == "validation" else "train"
                pool = [piece for piece in pieces if piece.split == split]
                indices = range(shard, self.clips[source], self.shards)
                prepared.add(soundscapes(pool, self.recipe, audio, source, "strong", indices, self.seed, "desed_"))
            raw = raw.parents[2] / "raw" / raw.parent.name  # the soundbank's table lies in the manifests
        tables = {
            name: desed_files.read_set(raw / "metadata" / f"{name}.tsv", name, self.classes) for name in self.sets
        }
        for holding in tqdm(read_holdings(raw)[shard :: self.shards], desc="desed", unit="clip", disable=None):
            self._add(prepared, holding, tables[holding.set], audio)
        return prepared

    def _add(self, prepared: Prepared, holding, table: Table, audio: Path) -> None:
        source = self.sets[holding.set]
        name = f"{holding.set}_{holding.clip}" if holding.set.startswith("synthetic") else holding.clip
        recording = f"desed_{name}" if name != holding.clip else f"youtube/{video(holding.clip)}"
        clip = write_clip(
            holding.path, audio / source / f"{name}.flac", source, self.sample_rate, 0.0, self.seconds, (recording,)
        )
        prepared.clips.append(clip)
        if self.sources[source] == "strong":
            prepared.strong[clip.id] = cut_events(table[holding.clip], 0.0, clip.seconds)
        elif self.sources[source] == "weak":
            prepared.weak[clip.id] = table[holding.clip]

    def _without_leaks(self, tables: dict[str, Path]) -> dict[str, list[str]]:
        """Set → the clips to use: none of a video that is tested on, each with its strongest labels only."""
        clips = {name: list(desed_files.read_set(path, name, self.classes)) for name, path in tables.items()}
        if "weak" in clips:
            clips["weak"] = share_of(clips["weak"], self.weak_share)
        tested = {video(clip) for name in clips if self.sets[name] == "test" for clip in clips[name]}
        named = excluded(self.exclude, "desed") - tested
        clips = {name: [clip for clip in of_set if video(clip) not in named] for name, of_set in clips.items()}
        taken = set(tested)
        for name in PRECEDENCE:
            if name in clips:
                kept = [clip for clip in clips[name] if video(clip) not in taken]
                leaks = sum(video(clip) in tested for clip in clips[name])
                log.info(
                    "%s: %d of %d clips used; left out %d clips of test videos and %d used elsewhere",
                    name, len(kept), len(clips[name]), leaks, len(clips[name]) - len(kept) - leaks,
                )  # fmt: skip
                taken |= {video(clip) for clip in kept}
                clips[name] = kept
        return clips


def _with_soundscapes(synthetic: str, wanted: dict[str, int]) -> dict[str, int]:
    """How many soundscapes of which source: DESED's own numbers where none is wanted."""
    usual = {"synthetic_strong": 10000, "validation": 2500}
    if odd := sorted(set(wanted) - set(usual)):
        raise LabelError(f"desed: soundscapes are made of {list(usual)}, not of {odd[0]!r}")
    if wanted and synthetic != "scaper":
        raise LabelError(f"desed: soundscapes need `synthetic: scaper`, not {synthetic!r}; drop one of them")
    return usual | wanted


def share_of(clips: list[str], share: float, seed: int = 42) -> list[str]:
    """The weak clips that the baselines train on.

    Source
    ------
    DESED_task, train_pretrained.py:357-363: ``DataFrame.sample(frac=0.9, random_state=42)``, on the table's order.
    """
    if not 0 < share <= 1:
        raise LabelError(f"desed: weak_share {share} must be above 0 and at most 1")
    chosen = np.random.RandomState(seed).choice(len(clips), size=round(share * len(clips)), replace=False)
    return [clips[k] for k in sorted(chosen)]


def _chosen(
    strong: str, synthetic: str, external: bool, without_times: list[str], validation: list[str], test: str
) -> dict[str, str]:
    """Set → source."""
    for setting, value, choices in (
        ("strong", strong, ("official", "atst_sed", "none")),
        ("synthetic", synthetic, ("official", "scaper", "none")),
        ("test", test, ("validation", "public")),
        *(("validation", part, ("synthetic", "strong", *["external"] * external)) for part in validation),
    ):
        if value not in choices:
            raise LabelError(f"desed: {setting} cannot be {value!r}; choose from {list(choices)}")
    sets = {}
    if synthetic == "official":
        sets["synthetic"] = "synthetic_strong"
        if "synthetic" in validation:
            sets["synthetic_validation"] = "validation"
    if strong != "none":
        sets["real_strong" if strong == "official" else "real_strong_atst"] = "real_strong"
    if strong == "atst_sed" and "strong" in validation:
        sets["real_validation"] = "validation"
    if external:
        sets["external"] = "real_strong"
    if "external" in validation:
        sets["external_validation"] = "validation"
    sets |= {name: name for name in without_times} | {test: "test"}
    if "validation" not in sets.values() and synthetic != "scaper":
        raise LabelError(
            f"desed: no clips for validation (synthetic: {synthetic}, strong: {strong}, validation: {validation})"
        )
    return sets
