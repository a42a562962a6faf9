"""Events, clips and class lists, and the TSV files they live in.

The files are DCASE's: ``filename onset offset event_label`` (strong; soft labels also have ``confidence``),
``filename event_labels`` (weak, comma-joined), ``filename duration``. A clip is named by its file name without the
audio extension.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from sedflow.tables import LabelError, compose, parse_name, read_table, read_text, write_table

STRONG_COLUMNS = ("filename", "onset", "offset", "event_label")
SOFT_COLUMNS = (*STRONG_COLUMNS, "confidence")
CLIP_COLUMNS = ("id", "path", "seconds", "sha256", "source", "recordings")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".m4a", ".opus")
# entries of metrics beside the classes
SUMMARIES = ("mean", "macro_average", "micro_average", "error_rate", "substitutions", "deletions", "insertions")
END_SLACK_SECONDS = 0.1  # annotators and decoders round: real DESED labels end up to 0.06 s after their clip


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Event:
    """One sound event: onset and offset in seconds from the start of its clip; soft labels have a confidence."""

    onset: float
    offset: float
    label: str
    confidence: float = 1.0

    def ends_behind(self, seconds: float) -> bool:
        """Whether the event lasts longer than its clip of so many seconds, by more than rounding explains."""
        return self.offset > seconds + END_SLACK_SECONDS


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """One audio file of a corpus.

    ``source`` is its part of the corpus (``weak``, ``validation`` …); ``recordings`` names every original recording
    that sounds in it, so that splits can be told apart.
    """

    id: str
    path: str
    seconds: float
    sha256: str
    source: str
    recordings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """The ordered class list of a detector, with other spellings of its labels.

    Parameters
    ----------
    labels : tuple of str    column order of targets and scores
    aliases : mapping    other spelling → label
    """

    labels: tuple[str, ...]
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "labels", tuple(map(compose, self.labels)))
        object.__setattr__(self, "aliases", {compose(other): compose(label) for other, label in self.aliases.items()})
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice or not self.labels:
            raise LabelError(f"a class list needs labels, each of them once; duplicates: {twice}")
        if taken := sorted({*STRONG_COLUMNS[:3], *SUMMARIES} & set(self.labels)):
            raise LabelError(
                f"a class called {taken[0]!r} would be confused with the column of that name in our tables; rename it"
            )
        strangers = sorted(set(self.aliases.values()) - set(self.labels))
        if strangers:
            raise LabelError(f"aliases point to {strangers}, which are not in the class list {list(self.labels)}")
        if both := sorted(set(self.aliases) & set(self.labels)):
            raise LabelError(f"{both[0]!r} is a class and another spelling of {self.aliases[both[0]]!r}; drop one")

    def __len__(self):
        return len(self.labels)

    def __iter__(self):
        return iter(self.labels)

    def __contains__(self, label):
        return label in self.labels or label in self.aliases

    def index(self, label: str) -> int:
        """Column of a label or alias; ``LabelError`` when it is neither."""
        label = self.aliases.get(label, label)
        if label not in self.labels:
            raise LabelError(f"label {label!r} is not in the class list {list(self.labels)}")
        return self.labels.index(label)

    @classmethod
    def read(cls, path) -> ClassSet:
        """Read ``data/classes/*.txt``: one label per line, followed by aliases after tabs, ``#`` starts a comment."""
        labels, aliases = [], {}
        for line in read_text(path).splitlines():
            if line.strip() and not line.startswith("#"):
                label, *others = (part.strip() for part in line.split("\t"))
                labels.append(label)
                aliases.update(dict.fromkeys(others, label))
        return cls(tuple(labels), aliases)


def clip_id(filename: str) -> str:
    """File name without folder and audio extensions (``dog.mp3.wav``: both), letters composed as tables have them."""
    name = PurePath(compose(filename).replace("\\", "/")).name
    while (suffix := PurePath(name).suffix).lower() in AUDIO_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def read_events(
    path, classes: ClassSet | None = None, durations: Mapping[str, float] | None = None, needs_confidence: bool = False
) -> dict[str, list[Event]]:
    """Read strong or soft labels.

    Parameters
    ----------
    path : TSV with ``filename onset offset event_label`` (seconds); a row with only a name is a clip without events
    classes : ClassSet, optional    labels outside it are refused, aliases are resolved
    durations : mapping clip id → seconds, optional    events that end after their clip are refused
    needs_confidence : bool    refuse a table without the column ``confidence``, which is read if present

    Returns
    -------
    dict    clip id → list of Event, in order of onset; clips without events have an empty list

    Raises
    ------
    LabelError    with file, row, value and cure
    """
    events: dict[str, list[Event]] = {}
    for number, row in read_table(path, SOFT_COLUMNS if needs_confidence else STRONG_COLUMNS):
        if not row["filename"]:
            raise LabelError(f"{path}:{number}: no file name")
        clip = clip_id(parse_name(path, number, row["filename"]))
        of_clip = events.setdefault(clip, [])
        cells = [row["onset"], row["offset"], row["event_label"]]
        if not any(cells):
            continue
        event = parse_event(path, number, *cells, classes)
        if "confidence" in row:
            event = dataclasses.replace(event, confidence=parse_confidence(path, number, row["confidence"]))
        if durations is not None:
            if clip not in durations:
                raise LabelError(f"{path}:{number}: {row['filename']!r} is not among the {len(durations)} known clips")
            if event.ends_behind(durations[clip]):
                raise LabelError(
                    f"{path}:{number}: offset {event.offset} s is beyond the end of {row['filename']} "
                    f"({durations[clip]:.3f} s); correct the label or the duration"
                )
        of_clip.append(event)
    return {clip: sorted(of_clip) for clip, of_clip in events.items()}


def parse_event(path, number: int, onset: str, offset: str, label: str, classes: ClassSet | None = None) -> Event:
    """Turn the cells of row ``number`` into an event; ``LabelError`` names file, row, value and cure.

    Labels outside ``classes``, if there are any, are refused, aliases are resolved.
    """
    try:
        begin, end = float(onset), float(offset)
    except ValueError:
        raise LabelError(f"{path}:{number}: onset {onset!r} and offset {offset!r} must be numbers in seconds") from None
    if not (math.isfinite(begin) and math.isfinite(end)):
        raise LabelError(f"{path}:{number}: onset {onset!r} and offset {offset!r} must be finite; correct the row")
    if begin < 0:
        raise LabelError(f"{path}:{number}: onset {begin} s is negative; times count from the start of the clip")
    if end <= begin:
        raise LabelError(f"{path}:{number}: offset {end} s is not after onset {begin} s; correct or delete the row")
    if not label or label.lower() == "nan":
        raise LabelError(f"{path}:{number}: the event at {begin} s has no label")
    label = parse_name(path, number, label)
    return Event(begin, end, label if classes is None else parse_label(path, number, label, classes))


def parse_label(path, number: int, label: str, classes: ClassSet) -> str:
    """The class that row ``number`` means; ``LabelError`` names file, row, value and cure."""
    if label not in classes:
        raise LabelError(
            f"{path}:{number}: label {label!r} is not in the class list {list(classes)}; correct the spelling, delete "
            "the row or add the class"
        )
    return classes.aliases.get(label, label)


def parse_confidence(path, number: int, cell: str) -> float:
    """How sure row ``number`` is of its event, in [0, 1]; ``LabelError`` names file, row, value and cure."""
    try:
        confidence = float(cell)
    except ValueError:
        confidence = math.nan
    if not 0 <= confidence <= 1:
        raise LabelError(
            f"{path}:{number}: confidence {cell!r} must be a number from 0 to 1; divide percentages by 100, delete "
            "rows without a rating"
        )
    return confidence


def write_events(path, events: Mapping[str, Iterable[Event]], suffix: str = ".wav", confidences: bool = False) -> None:
    """Write strong or soft labels; clips without events keep a row, so that they do not count as missing."""
    rows = []
    for clip in sorted(events):
        of_clip = sorted(events[clip])
        rows += [(clip + suffix, *_times(e), e.label, f"{e.confidence:.6g}") for e in of_clip]
        rows += [] if of_clip else [(clip + suffix, "", "", "", "")]
    columns = SOFT_COLUMNS if confidences else STRONG_COLUMNS
    write_table(path, columns, [row[: len(columns)] for row in rows])


def _times(event: Event) -> tuple[str, str]:
    """Onset and offset in milliseconds, as DCASE writes them, and finer where they would be one moment."""
    times = f"{event.onset:.3f}", f"{event.offset:.3f}"
    return times if times[0] != times[1] else (f"{event.onset:.9f}", f"{event.offset:.9f}")


def read_weak(path, classes: ClassSet | None = None) -> dict[str, tuple[str, ...]]:
    """Read weak labels: clip id → labels present somewhere in the clip (possibly none)."""
    labels = {}
    for number, row in read_table(path, ("filename", "event_labels")):
        clip = clip_id(parse_name(path, number, row["filename"]))
        found = tuple(parse_name(path, number, part.strip()) for part in row["event_labels"].split(",") if part.strip())
        if clip in labels:
            raise LabelError(f"{path}:{number}: {row['filename']!r} appears twice; join its labels with commas")
        if classes is not None:
            found = (parse_label(path, number, label, classes) for label in found)
        labels[clip] = tuple(dict.fromkeys(found))
    return labels


def write_weak(path, labels: Mapping[str, Iterable[str]], suffix: str = ".wav") -> None:
    """Write weak labels, comma-joined and sorted; ``LabelError`` for a label that holds a comma itself."""
    if broken := sorted({label for of_clip in labels.values() for label in of_clip if "," in label}):
        raise LabelError(f"{path}: {broken[0]!r} contains a comma, which separates labels; rename the class")
    rows = [(clip + suffix, ",".join(sorted(set(labels[clip])))) for clip in sorted(labels)]
    write_table(path, ("filename", "event_labels"), rows)


def read_durations(path) -> dict[str, float]:
    """Read ``filename duration``: clip id → seconds."""
    durations = {}
    for number, row in read_table(path, ("filename", "duration")):
        try:
            seconds = float(row["duration"])
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            raise LabelError(
                f"{path}:{number}: duration {row['duration']!r} of {row['filename']!r} must be a positive number"
            )
        if clip_id(row["filename"]) in durations:
            raise LabelError(f"{path}:{number}: {row['filename']!r} appears twice")
        durations[clip_id(row["filename"])] = seconds
    return durations


def write_durations(path, durations: Mapping[str, float], suffix: str = ".wav") -> None:
    """Write ``filename duration`` in seconds."""
    write_table(path, ("filename", "duration"), [(c + suffix, f"{durations[c]:.6g}") for c in sorted(durations)])


def read_clips(path) -> list[Clip]:
    """Read a clip table: ``id path seconds sha256 source recordings``, recordings comma-joined, paths from the root."""
    clips = []
    for _, row in read_table(path, CLIP_COLUMNS):
        recordings = tuple(part for part in row["recordings"].split(",") if part)
        clips.append(Clip(row["id"], row["path"], float(row["seconds"]), row["sha256"], row["source"], recordings))
    return clips


def write_clips(path, clips: Iterable[Clip]) -> None:
    """Write a clip table in order of source and id."""
    ordered = sorted(clips, key=lambda clip: (clip.source, clip.id))
    rows = [(c.id, c.path, f"{c.seconds:.6f}", c.sha256, c.source, ",".join(c.recordings)) for c in ordered]
    write_table(path, CLIP_COLUMNS, rows)


def merge_events(events: Iterable[Event], max_gap: float = 0.0, min_seconds: float = 0.0) -> list[Event]:
    """Join same-label events that overlap or lie closer than ``max_gap`` seconds, then drop the too short ones."""
    merged: dict[str, list[Event]] = {}
    for event in sorted(events):
        of_label = merged.setdefault(event.label, [])
        touches = of_label and (event.onset <= of_label[-1].offset or event.onset - of_label[-1].offset < max_gap)
        if touches:
            of_label[-1] = dataclasses.replace(of_label[-1], offset=max(of_label[-1].offset, event.offset))
        else:
            of_label.append(event)
    # a nanosecond of slack: 0.25 s events must survive the subtraction of two decimals
    return sorted(e for of_label in merged.values() for e in of_label if e.offset - e.onset >= min_seconds - 1e-9)
