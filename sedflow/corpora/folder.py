"""Your own recordings: a folder with audio and label tables, any sample rate, length and class names.

::

    <path>/audio/**          recordings, in any sub-folders; every name once
    <path>/strong.tsv        filename onset offset event_label
    <path>/weak.tsv          filename event_labels (comma-joined)
    <path>/unlabeled/**      recordings without labels, or unlabeled.tsv with the column filename
    <path>/validation.tsv    as strong.tsv; without it a share of the recordings of strong.tsv
    <path>/test.tsv          as strong.tsv; without it another share
    <path>/classes.txt       one class per line; without it every label found, in alphabetical order

All but the audio and one training table may be absent. A column ``recording`` in any table says which files come from
one recording: a split keeps them together and takes none that other tables train on, and tables that share a recording
between training, validation and test are refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path

from sedflow import audio, folder_files
from sedflow.clips import LONGEST_REST_SECONDS, cut_events, write_clip
from sedflow.corpora import Prepared
from sedflow.events import (
    ClassSet,
    LabelError,
    clip_id,
    read_events,
    read_table,
    read_weak,
    write_table,
)
from sedflow.files import sha256
from sedflow.folder_files import Place

_SPELLING = str.maketrans("", "", " _-")  # what spellings of one label differ in, beside case
WEAK_TOLERANCE = 1.1  # a weak clip may be longer than a training clip by this factor


class Folder:
    """Recordings and labels of a folder.

    Parameters
    ----------
    path : str    the folder
    sample_rate : int    of the clips that are written, Hz
    seconds : float    longest clip; longer recordings are cut, labels along, except those of test
    classes : str, list of str    file in the folder, or the labels; by default ``classes.txt`` or what the tables name
    strong, weak, unlabeled, validation, test : str    table (unlabeled: or sub-folder) if called otherwise
    validation_share, test_share : float    share of the recordings of ``strong`` where there is no table
    shards : int    jobs
    seed : int    of the split
    allow_missing : int    so many recordings named in tables may be absent
    """

    uses_soundbank = False

    def __init__(  # noqa: PLR0913 (one setting per table)
        self,
        *,
        path: str,
        sample_rate: int = 16000,
        seconds: float = 10.0,
        classes: str | list[str] | None = None,
        strong: str | None = None,
        weak: str | None = None,
        unlabeled: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        validation_share: float = 0.15,
        test_share: float = 0.15,
        shards: int = 4,
        seed: int = 1,
        allow_missing: int = 0,
    ):
        self.path = Path(path)
        self.sample_rate, self.seconds = sample_rate, seconds
        self.shards, self.seed, self.allow_missing = shards, seed, allow_missing
        for setting in ("sample_rate", "seconds", "shards"):
            if not getattr(self, setting) > 0:
                raise LabelError(
                    f"{path}: {setting} of the folder corpus is {getattr(self, setting)}, it must be above 0"
                )
        if not self.path.is_dir():
            raise LabelError(f"{path}: no such folder; set `path` of the folder corpus to your recordings")
        given = {"strong": strong, "weak": weak, "unlabeled": unlabeled, "validation": validation, "test": test}
        self.tables = {name: found for name, file in given.items() if (found := self._table(name, file))}
        if not {"strong", "weak"} & set(self.tables):
            raise LabelError(
                f"{path}: neither strong.tsv nor weak.tsv; training needs one of them (see corpora/folder.py)"
            )
        self.class_file = None if isinstance(classes, list) else self.path / (classes or "classes.txt")
        self.classes = self._classes(classes)
        self.labels = self._labels({"validation": validation_share, "test": test_share})
        kinds = {"weak": "weak", "unlabeled": "none"}
        self.sources = {source: kinds.get(source, "strong") for source in self.labels}

    @property
    def label_files(self) -> list[Path]:
        """Files that the user may edit, for the workflow to watch."""
        read = [*filter(None, [self.class_file]), *self.tables.values()]
        return [path for path in read if path.is_file()]

    @property
    def audio_files(self) -> list[Path]:
        """Files that the user may add or replace, for the workflow to watch."""
        return [path for paths in folder_files.listing(self.path).values() for path in paths]

    def download(self, raw: Path, mirror: Path | None = None) -> None:
        """Check every recording and label before anything is made, and list the recordings with their sums."""
        named = {
            clip: Place(source, self.tables.get(source, self.tables.get("strong")).name)  # strong: what is split off it
            for source, labels in self.labels.items()
            for clip in labels
        }
        paths = folder_files.choose(self.path, named, self.allow_missing)
        self._check_audio(paths)
        sums = {clip: sha256(paths[clip]) for clip in sorted(paths)}
        folder_files.check_splits(paths, named, sums)
        rows = [(paths[clip], digest, paths[clip].stat().st_size) for clip, digest in sums.items()]
        write_table(raw / "files.tsv", ("path", "sha256", "bytes"), rows)

    def prepare(self, raw: Path, audio_folder: Path, shard: int) -> Prepared:
        """Write every ``shards``-th recording of each source as clips."""
        from tqdm import tqdm

        paths = {clip_id(row["path"]): row["path"] for _, row in read_table(raw / "files.tsv", ("path",))}
        groups = self._groups()
        prepared = Prepared()
        for source, kind in self.sources.items():
            names = sorted(set(self.labels[source]) & set(paths))[shard :: self.shards]
            for name in tqdm(names, desc=source, unit="recording", disable=None):
                labels = self.labels[source][name]
                for begin, end, clip in self._cut(paths[name], name, source):
                    out = audio_folder / source / f"{clip}.flac"
                    clip = write_clip(paths[name], out, source, self.sample_rate, begin, end - begin, (groups[name],))
                    prepared.clips.append(clip)
                    if kind == "strong":
                        prepared.strong[clip.id] = cut_events(labels, begin, begin + clip.seconds)
                    elif kind == "weak":
                        prepared.weak[clip.id] = labels
        return prepared

    def _table(self, name: str, file: str | None) -> Path | None:
        choices = [file] if file else [f"{name}.tsv", *(["unlabeled"] if name == "unlabeled" else [])]
        found = [self.path / choice for choice in choices if (self.path / choice).exists()]
        if file and not found:
            raise LabelError(f"{self.path / file}: the table given as `{name}` does not exist")
        return found[0] if found else None

    def _classes(self, classes) -> ClassSet:
        if isinstance(classes, list):
            return ClassSet(tuple(classes))
        if classes or self.class_file.is_file():
            return ClassSet.read(self.class_file)
        strong = [read_events(self.tables[name]) for name in ("strong", "validation", "test") if name in self.tables]
        labels = {event.label for table in strong for events in table.values() for event in events}
        if "weak" in self.tables:
            labels |= {label for of_clip in read_weak(self.tables["weak"]).values() for label in of_clip}
        if not labels:
            raise LabelError(f"{self.path}: the tables contain no label; at least one event is needed")
        spelt: dict[str, str] = {}
        for label in sorted(labels):
            if (other := spelt.setdefault(label.casefold().translate(_SPELLING), label)) != label:
                raise LabelError(
                    f"{self.path}: the tables contain {other!r} and {label!r}; use one spelling or, if they are two "
                    "classes, write classes.txt with both (one per line; its other spellings follow after tabs)"
                )
        return ClassSet(tuple(sorted(labels)))

    def _labels(self, shares: dict[str, float]) -> dict[str, dict]:
        """Source → recording → its events or labels."""
        labels = {}
        if "strong" in self.tables:
            labels["real_strong"] = self._filled("strong", read_events)
        if "weak" in self.tables:
            labels["weak"] = self._filled("weak", read_weak)
        for source, share in shares.items():
            if source in self.tables:
                labels[source] = self._filled(source, read_events)
            else:
                labels[source] = self._split_off(labels.get("real_strong", {}), source, share)
        if "unlabeled" in self.tables:
            labelled = {clip for of_source in labels.values() for clip in of_source}
            labels["unlabeled"] = dict.fromkeys(clip for clip in self._unlabeled() if clip not in labelled)
            if not labels["unlabeled"]:
                raise LabelError(f"{self.tables['unlabeled']}: lists no recording; fill or delete it")
        first: dict[str, str] = {}
        for source, of_source in labels.items():
            for clip in of_source:
                if first.setdefault(clip, source) != source:
                    raise LabelError(
                        f"{self.path}: {clip!r} appears in {first[clip]} and in {source}; keep it in one table"
                    )
        return labels

    def _filled(self, name: str, read) -> dict:
        """The labels of a table, which must not be empty."""
        labels = read(self.tables[name], self.classes)
        if not labels:
            raise LabelError(f"{self.tables[name]}: no rows below the header; fill or delete the file")
        return labels

    def _split_off(self, strong: dict, source: str, share: float) -> dict:
        """Take a share of the recordings out of ``strong``, of those that no other table has clips of.

        They are ranked by a hash of their own name: one more recording moves at most one that was held out, and runs
        before and after it are judged on nearly the same clips.
        """
        groups = self._groups()
        elsewhere = {group for clip, group in groups.items() if clip not in strong}
        recordings = {groups[clip] for clip in strong}
        names = recordings - elsewhere
        count = max(1, round(share * len(recordings)))
        if not 0 < share < 1 or count >= len(recordings) or count > len(names):
            raise LabelError(
                f"{self.path}: cannot split {source} off {len(names)} recordings with strong labels (share {share}); "
                f"write {source}.tsv yourself or label more recordings"
            )

        def rank(name: str) -> bytes:
            return hashlib.sha256(f"{self.seed}\t{source}\t{name}".encode()).digest()

        taken = set(sorted(names, key=rank)[:count])
        split = {clip: strong[clip] for clip in list(strong) if groups[clip] in taken}
        for clip in split:
            del strong[clip]
        return split

    def _groups(self) -> dict[str, str]:
        """Recording that each file belongs to: its column in the tables, or the file itself."""
        groups = _Names()
        for table in filter(Path.is_file, self.tables.values()):
            for _, row in read_table(table, ("filename",)):
                if row.get("recording"):
                    groups[clip_id(row["filename"])] = row["recording"].replace(",", "_")
        return groups

    def _unlabeled(self) -> Iterable[str]:
        table = self.tables["unlabeled"]
        if table.is_dir():
            return sorted(clip_id(path.name) for path in audio.recordings(table))
        return [clip_id(row["filename"]) for _, row in read_table(table, ("filename",))]

    def _check_audio(self, paths: dict[str, Path]) -> None:
        seconds = audio.lengths(paths)
        for name in ("strong", "validation", "test"):
            if name in self.tables:
                known = {clip: seconds.get(clip, math.inf) for clip in read_events(self.tables[name])}
                read_events(self.tables[name], self.classes, known)
        for clip in self.labels.get("weak", {}):
            if seconds.get(clip, 0) > WEAK_TOLERANCE * self.seconds:
                raise LabelError(
                    f"{paths[clip]}: {seconds[clip]:.1f} s with weak labels, which would not hold for each part of "
                    f"{self.seconds:g} s; cut it yourself, label it strongly, or set seconds"
                )

    def _cut(self, path: str, name: str, source: str):
        """Yield (begin, end, clip id): the parts of a recording; test recordings stay whole."""
        total = audio.info(path).seconds
        if source == "test" or total <= self.seconds + LONGEST_REST_SECONDS or source == "weak":
            yield 0.0, total if source == "test" else min(total, self.seconds), name
            return
        for k in range(math.ceil((total - LONGEST_REST_SECONDS) / self.seconds)):
            yield k * self.seconds, min(total, (k + 1) * self.seconds), f"{name}-{k:03d}"


class _Names(dict):
    def __missing__(self, name):
        return name.replace(",", "_")
