"""DCASE 2016 Task 2: office sounds in synthetic two-minute scenes, as HEAR 2021 re-splits and packs them.

::

    <path>/<rate>/{train,valid,test}/*.wav     rate 16000 or 48000
    <path>/{train,valid,test}.json             file → list of label, start, end in milliseconds
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from sedflow.audio import info
from sedflow.clips import cut_events, label_ends, windows, write_clip
from sedflow.corpora import Prepared
from sedflow.download import DATA, DownloadError
from sedflow.events import ClassSet, Event, LabelError, clip_id
from sedflow.files import below
from sedflow.holdings import Allowance, find, read_holdings, write_holdings
from sedflow.ranges import Count, Positive
from sedflow.zenodo import unpacked

RECORD, ARCHIVE = 5802571, "*dcase2016_task2*"
SPLITS = {"real_strong": "train", "validation": "valid", "test": "test"}
CURE = "Get hear2021-dcase2016_task2 (16 or 48 kHz) and set `path` to its folder"


class Dcase2016Task2:
    """Pieces of the training and validation scenes, whole test scenes.

    Parameters
    ----------
    path : str    HEAR's folder of the task; by default it is downloaded
    sample_rate : int    of the clips that are written, Hz
    seconds : float    length of a piece
    hop_seconds : float    from piece to piece of the training scenes; by default they do not overlap
    whole_scenes : bool    leave training scenes whole, for stages with ``random_crops``
    shards : int    jobs
    allow_missing : int, dict    so many scenes may be absent: of ``train``, or by set ({train: 2, valid: 1})
    """

    uses_soundbank = False

    def __init__(
        self,
        *,
        path: str | None = None,
        sample_rate: Count = 16000,
        seconds: Positive = 10.0,
        hop_seconds: Positive | None = None,
        whole_scenes: bool = False,
        shards: Count = 2,
        allow_missing: int | dict[str, int] = 0,
    ):
        self.sources = {"real_strong": "strong", "validation": "strong", "test": "strong"}
        self.path, self.sample_rate, self.seconds, self.hop_seconds = path, sample_rate, seconds, hop_seconds or seconds
        self.whole = ("real_strong", "test") if whole_scenes else ("test",)
        self.shards = shards
        self.allowance = Allowance(allow_missing, {split: source for source, split in SPLITS.items()})
        self.classes = ClassSet.read(DATA / "classes" / "dcase2016_task2.txt")

    @functools.cached_property  # looked for once, though every job of a plan asks
    def label_files(self) -> list[Path]:
        """Labels in the user's folder, for the workflow to watch."""
        root = _root(Path(self.path)) if self.path else None
        return [root / f"{split}.json" for split in SPLITS.values()] if root else []

    def download(self, raw: Path, mirror: Path | None = None) -> None:
        """Find or fetch the scenes and check their labels."""
        folders = [Path(self.path)] if self.path else [mirror / "dcase2016_task2"] if mirror else []
        if self.path and not folders[0].is_dir():
            raise DownloadError(f"{self.path}: no such folder; set `path` to your copy or leave it out")
        if not self.path and not any(_root(folder) for folder in folders):
            folders = [unpacked(RECORD, ARCHIVE, raw / "official", folders)]
        root = _root(folders[0])
        if root is None:
            raise DownloadError(f"{folders[0]}: no train.json in it; {CURE}")
        wanted, ends = {}, {}
        for split in SPLITS.values():
            labels = read_annotation(root / f"{split}.json", self.classes)
            wanted[split], ends[split] = sorted(labels), label_ends(labels)
            (raw / "labels").mkdir(parents=True, exist_ok=True)
            (raw / "labels" / f"{split}.json").write_bytes((root / f"{split}.json").read_bytes())
        # from the lower rate if it is enough: half of the bytes to read
        rates = sorted((int(path.name), path) for path in root.iterdir() if path.name.isdigit())
        ordered = [path for rate, path in rates if rate >= self.sample_rate] or [path for _, path in rates[::-1]]
        found, missing = find(wanted, {split: [path / split for path in ordered] for split in wanted})
        write_holdings(raw, found, missing, self.allowance, CURE, ends)

    def prepare(self, raw: Path, audio: Path, shard: int) -> Prepared:
        """Cut every ``shards``-th scene of each split."""
        prepared = Prepared()
        of_split = {split: source for source, split in SPLITS.items()}
        labels = {split: read_annotation(raw / "labels" / f"{split}.json", self.classes) for split in of_split}
        for holding in read_holdings(raw)[shard :: self.shards]:
            source, total = of_split[holding.set], info(holding.path).seconds
            hop = self.hop_seconds if source == "real_strong" else self.seconds
            whole = source in self.whole
            parts = [(0.0, total)] if whole else list(windows(total, self.seconds, hop))
            for k, (begin, end) in enumerate(parts):
                out = audio / source / (holding.clip + ("" if whole else f"_{k:03d}") + ".flac")
                recordings = (f"dcase2016_task2/{holding.clip}",)
                clip = write_clip(holding.path, out, source, self.sample_rate, begin, end - begin, recordings)
                prepared.clips.append(clip)
                prepared.strong[clip.id] = cut_events(labels[holding.set][holding.clip], begin, begin + clip.seconds)
        return prepared


def _root(folder: Path) -> Path | None:
    """Where the labels lie in a folder, with the audio beside them."""
    tables = sorted(path for path in below(folder) if path.name == "train.json")
    return tables[0].parent if tables else None


def read_annotation(path: Path, classes: ClassSet) -> dict[str, list[Event]]:
    """Read HEAR's labels: clip → events; ``LabelError`` names the file, the clip and the value."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabelError(f"{path}: not readable as JSON ({error}); copy the file again") from None
    if not isinstance(table, dict) or not all(isinstance(rows, list) for rows in table.values()):
        raise LabelError(f"{path}: not a table of scenes with a list of labels each; copy HEAR's file again")
    events = {}
    for name, rows in table.items():
        events[clip_id(name)] = of_clip = []
        for row in rows:
            try:
                label, begin, end = row["label"], float(row["start"]) / 1000, float(row["end"]) / 1000
            except (LookupError, TypeError, ValueError):
                raise LabelError(f"{path}: {name}: {row} is not a label with start and end; correct it") from None
            if label not in classes or not 0 <= begin < end:
                raise LabelError(
                    f"{path}: {name}: {row} is not an event of {list(classes)} in milliseconds; correct it"
                )
            of_clip.append(Event(begin, end, classes.aliases.get(label, label)))
    return events
