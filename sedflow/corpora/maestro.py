"""MAESTRO real: streets, cafés, stations, shops; soft labels second by second, by how many annotators heard a class.

Source: DCASE 2024 Task 4 baseline. ``data/maestro.tsv`` holds its fixed lists (dprep/train_split.csv, 33 recordings,
and validation_split.csv, 16, which are its test); ``data/classes/maestro.txt`` its 17 classes in order.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections import defaultdict
from collections.abc import Container, Iterable
from pathlib import Path

import numpy as np

from sedflow.audio import info, recordings
from sedflow.clips import cut_events, windows, write_clip
from sedflow.corpora import Prepared
from sedflow.download import DATA, DownloadError
from sedflow.events import ClassSet, Event, LabelError, parse_confidence, parse_event, read_table
from sedflow.files import below
from sedflow.holdings import Allowance, find, read_holdings, write_holdings
from sedflow.ranges import Count, Positive, Share
from sedflow.recordings import sounding
from sedflow.zenodo import unpacked

RECORD, ARCHIVES = 7244360, ("development_audio.zip", "development_annotation.zip")
JUDGED = (  # of the 17, by the challenge (classes_dict.py:56-68)
    "birds_singing",
    "car",
    "people talking",
    "footsteps",
    "children voices",
    "wind_blowing",
    "brakes_squeaking",
    "large_vehicle",
    "cutlery and dishes",
    "metro approaching",
    "metro leaving",
)
CURE = "Get them from zenodo.org/records/7244360 and set `path` to the folder"


class Maestro:
    """Windows of MAESTRO's development recordings.

    Training windows have soft labels. Validation and test windows have an event where more than half of the annotators
    heard the class; test windows overlap and are evaluated as whole recordings. Their labels cover fewer classes.

    Parameters
    ----------
    path : str    folder with ``<recording>.wav`` and ``<recording>.txt`` anywhere below; by default it is downloaded
    sample_rate : int    of the clips that are written, Hz
    seconds, hop_seconds, test_hop_seconds : float    length of a window, and from window to window
    validation_share : float    of the training recordings of each scene
    judged : list of str    classes that validation and test have; by default the 11 of the challenge
    copies : dict    class → labels of other corpora that it also stands for, see `sedflow.corpora`
    shards : int    jobs
    seed : int    of the split
    allow_missing : int, dict    so many recordings may be absent: of ``soft``, or by source ({soft: 2, test: 1})
    """

    uses_soundbank = False

    def __init__(  # noqa: PLR0913 (one setting per choice of the baseline)
        self,
        *,
        path: str | None = None,
        sample_rate: Count = 16000,
        seconds: Positive = 10.0,
        hop_seconds: Positive = 1.0,
        test_hop_seconds: Positive = 5.0,
        validation_share: Share = 0.1,
        judged: list[str] | None = None,
        copies: dict[str, list[str]] | None = None,
        shards: Count = 4,
        seed: int = 42,
        allow_missing: int | dict[str, int] = 0,
    ):
        self.sources = {"soft": "soft", "validation": "strong", "test": "strong"}
        self.path, self.sample_rate, self.seconds = path, sample_rate, seconds
        if test_hop_seconds > seconds:
            raise LabelError(
                f"maestro: test_hop_seconds {test_hop_seconds:g} is more than the {seconds:g} s of a window, so whole "
                "recordings could not be evaluated; lower it"
            )
        self.hops = {"soft": hop_seconds, "validation": seconds, "test": test_hop_seconds}
        self.copies, self.shards = copies or {}, shards
        self.allowance = Allowance(allow_missing, {source: source for source in self.sources})
        self.classes = ClassSet.read(DATA / "classes" / "maestro.txt")
        judged = [self.classes.labels[self.classes.index(label)] for label in judged or JUDGED]
        self.labelled = {"validation": judged, "test": judged}
        self.recordings = self._split(validation_share, seed)

    @functools.cached_property  # looked for once, though every job of a plan asks
    def label_files(self) -> list[Path]:
        """Annotations in the user's folder, for the workflow to watch."""
        return sorted(_annotations([Path(self.path)], self.recordings).values()) if self.path else []

    def download(self, raw: Path, mirror: Path | None = None) -> None:
        """Find or fetch the recordings and their annotations, and check each of them."""
        folders = [Path(self.path)] if self.path else [mirror / "maestro"] if mirror else []
        if self.path and not folders[0].is_dir():
            raise DownloadError(f"{self.path}: no such folder; set `path` of maestro to your copy or leave it out")
        if not self.path and not any(recordings(folder) for folder in folders):
            folders = [unpacked(RECORD, archive, raw / "official", folders) for archive in ARCHIVES]
        texts = _annotations(folders, self.recordings)
        found, missing = find(self._by_source(), dict.fromkeys(self.sources, folders))
        mute = [holding for holding in found if holding.clip not in texts]
        found = [holding for holding in found if holding.clip in texts]
        for holding in mute:
            missing.setdefault(holding.set, {})[holding.clip] = f"it is there, its annotation {holding.clip}.txt is not"
        ends = defaultdict(dict)
        for holding in found:
            (raw / "annotations").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(texts[holding.clip], raw / "annotations" / f"{holding.clip}.txt")
            events = read_annotation(raw / "annotations" / f"{holding.clip}.txt", self.classes)
            # annotators heard second by second: the last one may be cut by the end
            ends[holding.set][holding.clip] = max((event.onset for event in events), default=0.0)
        lacking = f"No annotation <recording>.txt for {len(mute)} recordings that are there: {ARCHIVES[1]} has them. "
        write_holdings(raw, found, missing, self.allowance, lacking * bool(mute) + CURE, ends)

    def prepare(self, raw: Path, audio: Path, shard: int) -> Prepared:
        """Cut every ``shards``-th recording into windows."""
        from tqdm import tqdm

        prepared = Prepared()
        for holding in tqdm(read_holdings(raw)[shard :: self.shards], desc="maestro", unit="recording", disable=None):
            prepared.add(self._windows(holding, raw, audio))
        return prepared

    def _windows(self, holding, raw: Path, audio: Path) -> Prepared:
        source = self.recordings[holding.clip]
        events = read_annotation(raw / "annotations" / f"{holding.clip}.txt", self.classes)
        if source != "soft":
            events = sounding(event for event in events if event.label in self.labelled[source])
        made = Prepared()
        for begin, end in windows(info(holding.path).seconds, self.seconds, self.hops[source]):
            of_window = cut_events(events, begin, end)
            if source == "soft" and not of_window:
                continue  # nobody rated these seconds, which is not the same as silence
            out = audio / source / f"{holding.clip}-{round(100 * begin):06d}-{round(100 * end):06d}.flac"
            original = (f"maestro/{holding.clip}",)
            clip = write_clip(holding.path, out, source, self.sample_rate, begin, end - begin, original)
            made.clips.append(clip)
            made.strong[clip.id] = cut_events(of_window, 0.0, clip.seconds)
        return made

    def _by_source(self) -> dict[str, list[str]]:
        return {source: [name for name, of in self.recordings.items() if of == source] for source in self.sources}

    def _split(self, validation_share: float, seed: int) -> dict[str, str]:
        """Recording → source: of each scene's training recordings the first share after shuffling trains."""
        parts, scenes = {}, defaultdict(list)
        for _, row in read_table(DATA / "maestro.tsv", ("recording", "scene", "part")):
            parts[row["recording"]] = "test"
            if row["part"] == "train":
                scenes[row["scene"]].append(row["recording"])
        for names in scenes.values():
            order = np.random.default_rng(seed).permutation(len(names))
            training = int((1 - validation_share) * len(names))
            for place, k in enumerate(order):
                parts[sorted(names)[k]] = "soft" if place < training else "validation"
        return parts


def _annotations(folders: Iterable[Path], recordings: Container[str]) -> dict[str, Path]:
    """Recording → its annotation, anywhere in the folders."""
    paths = [path for folder in folders for path in sorted(below(folder))]
    return {path.stem: path for path in paths if path.suffix == ".txt" and path.stem in recordings}


def read_annotation(path: Path, classes: ClassSet) -> list[Event]:
    """Read ``onset offset label confidence`` (tabs, no header); a label that was skipped would be taught as silence."""
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if not any(cells) or cells[0].lower() == "onset":
            continue
        event = parse_event(path, number, *(cells + [""] * 3)[:3], classes)
        confidence = parse_confidence(path, number, (cells + [""] * 4)[3])
        events.append(dataclasses.replace(event, confidence=confidence))
    return sorted(events)
