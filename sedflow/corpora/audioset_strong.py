"""AudioSet Strong: 120 000 clips of YouTube videos with events of up to 456 classes (Hershey et al., ICASSP 2021).

The labels are Google's tables (CC BY 4.0); the audio is the user's, in any folders, named by YouTube id (``Y<id>.mp3``,
``<id>_30000.flac`` …). ``data/audioset_strong.tsv`` says which classes occur in training, evaluation or both.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from sedflow.audio import info, recordings
from sedflow.clips import cut_events, label_ends, write_clip
from sedflow.corpora import Prepared
from sedflow.download import DATA, DownloadError, fetch
from sedflow.events import (
    END_SLACK_SECONDS,
    ClassSet,
    Clip,
    Event,
    LabelError,
    clip_id,
    merge_events,
    parse_event,
    read_table,
)
from sedflow.files import replacing
from sedflow.holdings import (
    Allowance,
    Holding,
    check_cut,
    excluded,
    find,
    listing,
    read_holdings,
    sought_segment,
    told_segments,
    told_videos,
    video,
    write_holdings,
)
from sedflow.ranges import Count, Positive

URL = "http://storage.googleapis.com/us_audioset/youtube_corpus/strong"
TABLES = {"train": "audioset_train_strong.tsv", "eval": "audioset_eval_strong.tsv"}
COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
CLASS_LISTS = {
    "train": ("both", "train"),
    "eval": ("both", "eval"),
    "common": ("both",),
    "union": ("both", "train", "eval"),
}
CURE = "Add them to the folders of `path`, named by YouTube id and, if known, the start of their segment"

log = logging.getLogger(__name__)


class AudioSetStrong:
    """Training clips, some of them held out for validation, and the evaluation set as test.

    Parameters
    ----------
    path : str, list of str    folders with the audio
    classes : str    which list: train (447 classes), eval (416), common to both (407) or union (456)
    sample_rate : int    of the clips that are written, Hz
    seconds : float    longest clip
    validation : int    so many training clips validate, chosen by the sum of their id; upstream validates on test
    unlabeled : bool
        All other clips in the folders that are named by YouTube id train without labels (AudioSet Weak, for online
        distillation).
    exclude : str    table with the column ``filename``: clips that are left out because another corpus tests on them
    shards : int    jobs
    allow_missing : int, dict    so many clips may be absent: of ``train``, or by set ({train: 90, eval: 3})
    """

    uses_soundbank = False

    def __init__(  # noqa: PLR0913 (a corpus of many parts)
        self,
        *,
        path: str | list[str],
        classes: str = "train",
        sample_rate: Count = 16000,
        seconds: Positive = 10.0,
        validation: int = 1000,
        unlabeled: bool = False,
        exclude: str | None = None,
        shards: Count = 16,
        allow_missing: int | dict[str, int] = 0,
    ):
        if classes not in CLASS_LISTS:
            raise LabelError(f"audioset_strong: no class list {classes!r}; choose from {sorted(CLASS_LISTS)}")
        rows = [row for _, row in read_table(DATA / "audioset_strong.tsv", ("label", "mid", "part"))]
        self.names = {row["mid"]: row["label"] for row in rows}
        # in order of code points, as in the published weights
        self.classes = ClassSet(tuple(sorted(row["label"] for row in rows if row["part"] in CLASS_LISTS[classes])))
        self.sources = {"real_strong": "strong", "validation": "strong", "test": "strong"}
        if unlabeled:
            self.sources["unlabeled"] = "none"
        self.folders = [Path(folder) for folder in ([path] if isinstance(path, str) else path)]
        self.sample_rate, self.seconds, self.validation = sample_rate, seconds, validation
        self.exclude, self.shards = exclude, shards
        sets = {"train": "real_strong", "eval": "test"} | ({"unlabeled": "unlabeled"} if unlabeled else {})
        self.allowance = Allowance(allow_missing, sets)

    @property
    def label_files(self) -> list[Path]:
        """What the user may edit, for the workflow to watch."""
        tables = [_offered(table, self.folders) for table in TABLES.values()]
        return [*filter(None, tables), *([Path(self.exclude)] if self.exclude else [])]

    def download(self, raw: Path, mirror: Path | None = None) -> None:
        """Fetch Google's tables and find the audio of their clips."""
        absent = [str(folder) for folder in self.folders if not folder.is_dir()]
        if absent:
            raise DownloadError(f"{absent[0]}: no such folder; set `path` of audioset_strong to the audio you have")
        wanted, ends = {}, {}
        for name, table in TABLES.items():
            self._fetch_table(table, raw / table, mirror)
            labels = self._read(raw / table)
            wanted[name], ends[name] = list(labels), label_ends(labels, self.seconds)
        named = excluded(self.exclude, "audioset_strong")
        dropped = [clip for clip in wanted["train"] if video(clip) in named]
        evaluated = {video(clip) for clip in wanted["eval"]}
        shared = [clip for clip in wanted["train"] if video(clip) in evaluated]
        log.info("left out %d excluded training clips and %d of evaluation videos", len(dropped), len(shared))
        wanted["train"] = sorted(set(wanted["train"]) - {*dropped, *shared})
        of_video = Counter(video(clip) for clips in wanted.values() for clip in clips)
        sought = lambda clip: sought_segment(clip, alone=of_video[video(clip)] == 1)  # noqa: E731
        found, missing = find(wanted, dict.fromkeys(wanted, self.folders), sought, told_segments)
        check_cut(found)
        if "unlabeled" in self.sources:
            found += self._others({*named, *evaluated, *map(video, wanted["train"])})
        write_holdings(raw, found, missing, self.allowance, CURE, ends)

    def prepare(self, raw: Path, audio: Path, shard: int) -> Prepared:
        """Write every ``shards``-th clip."""
        from tqdm import tqdm

        events = {name: self._read(raw / table) for name, table in TABLES.items()}
        inventory = read_holdings(raw)
        validates = self._validating(inventory, label_ends(events["train"], self.seconds))
        prepared = Prepared()
        for holding in tqdm(inventory[shard :: self.shards], desc="audioset_strong", unit="clip", disable=None):
            if holding.set == "unlabeled":
                prepared.clips.append(self._write(holding, "unlabeled", audio))
                continue
            of_clip = events[holding.set][holding.clip]
            source = "test" if holding.set == "eval" else "real_strong"
            source = "validation" if source == "real_strong" and holding.clip in validates else source
            if source == "test" and not of_clip:
                continue  # its events are of classes outside the list: nothing can be judged
            clip = self._write(holding, source, audio)
            prepared.clips.append(clip)
            prepared.strong[clip.id] = cut_events(of_clip, 0.0, clip.seconds)
        return prepared

    def _validating(self, inventory: Iterable[Holding], ends: Mapping[str, float]) -> set[str]:
        """Training clips that validate: none that ends before its labels, its truth would be cut."""
        drawn = sorted((holding for holding in inventory if holding.set == "train"), key=lambda h: _draw(h.clip))
        whole = (h.clip for h in drawn if ends.get(h.clip, 0.0) <= info(h.path).seconds + END_SLACK_SECONDS)
        return set(itertools.islice(whole, self.validation))

    def _write(self, holding: Holding, source: str, audio: Path) -> Clip:
        out = audio / source / f"Y{holding.clip}.flac"
        origin = (f"youtube/{video(holding.clip)}",)
        return write_clip(holding.path, out, source, self.sample_rate, 0.0, self.seconds, origin)

    def _others(self, used: set[str]) -> list[Holding]:
        """Recordings of videos that no table names."""
        there = {own: path for folder in self.folders[::-1] for own, path in listing(folder, told_videos).items()}
        others = [Holding(there[own], "unlabeled", own) for own in sorted(set(there) - used)]
        if not others:
            raise DownloadError(
                f"unlabeled: {[str(folder) for folder in self.folders]} hold no clips other than those of "
                "AudioSet Strong; add AudioSet's other clips to them, or set the share of `unlabeled` to 0 and "
                "`unlabeled: false`"
            )
        log.info("%d clips that are not in the tables are used for training without labels", len(others))
        files = [path for folder in self.folders for path in recordings(folder)]
        if strange := [path.name for path in files if not told_videos(clip_id(path.name))]:
            log.warning("%d recordings are left out, their names contain no YouTube id: %s", len(strange), strange[:3])
        return others

    def _fetch_table(self, table: str, out: Path, mirror: Path | None) -> None:
        """Bring a table: the user's as it is now, else what was fetched before, else the mirror's or Google's."""
        own = _offered(table, self.folders)
        if own is None and out.is_file():
            return
        own = own or (_offered(table, [mirror / "audioset_strong"]) if mirror else None)
        if own is None:
            fetch(f"{URL}/{table}", out)
            return
        with replacing(out) as unfinished:  # half a table would pass for a whole one the next time
            shutil.copyfile(own, unfinished)

    def _read(self, path: Path) -> dict[str, list[Event]]:
        """Segment → its events of the chosen classes; what overlaps or touches is one event."""
        events: dict[str, list[Event]] = {}
        others: Counter[str] = Counter()
        for number, row in read_table(path, COLUMNS):
            if row["label"] not in self.names:
                raise LabelError(
                    f"{path}:{number}: no class {row['label']!r} in data/audioset_strong.tsv; add it there"
                )
            label = self.names[row["label"]]
            of_clip = events.setdefault(row["segment_id"], [])
            if label in self.classes:
                of_clip.append(parse_event(path, number, row["start_time_seconds"], row["end_time_seconds"], label))
            else:
                others[label] += 1
        log.info("%s: %d events of %d classes outside the list are left out", path.name, others.total(), len(others))
        return {clip: merge_events(of_clip) for clip, of_clip in events.items()}


def _offered(table: str, folders: Iterable[Path]) -> Path | None:
    """The table in the first folder that has it."""
    return next((folder / table for folder in folders if (folder / table).is_file()), None)


def _draw(clip: str) -> str:
    return hashlib.sha256(clip.encode()).hexdigest()
