"""The manifests of a corpus: shards in, one table per source out, and the check that nothing leaks.

A leak is a recording or an audio file that training and evaluation share, or that validation and test share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from sedflow import audio
from sedflow.corpora import Piece, Prepared, read_pieces
from sedflow.events import (
    ClassSet,
    Clip,
    LabelError,
    merge_events,
    read_clips,
    read_events,
    read_weak,
    write_clips,
    write_durations,
    write_events,
    write_table,
    write_weak,
)
from sedflow.files import write_json
from sedflow.params import EVENT_KINDS, HELD_OUT, split_of
from sedflow.source_checks import warn_of_sources

SUFFIX = ".flac"
OTHER_TABLES = {"clips", "soundbank", "inventory"}  # beside those of the sources


class LeakError(ValueError):
    """Training and evaluation share sounds; the message lists them."""


def write_shard(folder: Path, shard: int, prepared: Prepared) -> None:
    """Write ``<shard>.{clips,strong,weak}.tsv``; the clip table comes last."""
    soft = any(event.confidence != 1 for events in prepared.strong.values() for event in events)
    write_events(folder / f"{shard}.strong.tsv", prepared.strong, suffix=SUFFIX, confidences=soft)
    write_weak(folder / f"{shard}.weak.tsv", prepared.weak, suffix=SUFFIX)
    write_clips(folder / f"{shard}.clips.tsv", prepared.clips)


def collect(manifests: Path, shards: int, sources: Mapping[str, str], classes: ClassSet) -> dict:
    """Merge the shards of a corpus and check them; doubts about its training sources are logged.

    Parameters
    ----------
    manifests : Path    ``data/manifests/<corpus>``
    shards : int
    sources : source → kind (``strong``, ``soft``, ``weak``, ``none``)
    classes : ClassSet

    Returns
    -------
    dict    the counts also written to ``leaks.json``

    Raises
    ------
    LabelError    a clip or its labels missing, two clips of one name, labels outside the classes or the clip
    LeakError    splits share audio or recordings
    """
    clips, strong, weak = _merge(manifests / "shards", shards, classes)
    counts = find_leaks(clips, manifests / "soundbank.tsv")
    for source, kind in sources.items():
        of_source = [clip for clip in clips if clip.source == source]
        _write_source(manifests, source, kind, of_source, strong, weak)
    _drop_others(manifests, sources)
    warn_of_sources(clips, sources, strong, weak, classes)
    write_clips(manifests / "clips.tsv", clips)
    write_json(manifests / "leaks.json", counts)
    return counts


def find_leaks(clips: list[Clip], soundbank: Path | None = None) -> dict:
    """Compare training, validation and test by audio content and by recording; digital silence is ignored.

    Returns
    -------
    dict    counts of clips, recordings and pieces by split, and of clips that are equal to another of their split

    Raises
    ------
    LeakError    with every shared sound (the first twenty of them)
    """
    pieces = read_pieces(soundbank) if soundbank is not None and soundbank.is_file() else []
    leaks = _shared(clips, pieces)
    if leaks:
        listed = "\n  ".join(leaks[:20])
        raise LeakError(
            f"{len(leaks)} sounds appear in more than one split; move or remove them (if they come from two corpora, "
            f"name them in the `exclude` table of the one that trains on them, desed or audioset_strong):\n  {listed}"
        )
    sums = Counter((split_of(clip.source), clip.sha256) for clip in clips)
    splits = sorted({split_of(clip.source) for clip in clips})
    return {
        "shared": 0,
        "clips": {split: sum(split_of(clip.source) == split for clip in clips) for split in splits},
        "equal_clips": sum(count - 1 for count in sums.values()),
        "recordings": {
            split: len({name for clip in clips if split_of(clip.source) == split for name in clip.recordings})
            for split in splits
        },
        "pieces": dict(Counter(piece.split for piece in pieces)),
    }


def _shared(clips: list[Clip], pieces: list[Piece]) -> list[str]:
    """Sounds that more than one split contains, with the clips that contain them."""
    heard: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for clip in clips:
        for sound in (f"audio {clip.sha256[:16]}", *(f"recording {name}" for name in clip.recordings)):
            heard[sound][split_of(clip.source)][clip.id] = clip.path
    for piece in pieces:
        for sound in (f"audio {piece.sha256[:16]}", f"recording {piece.recording}"):
            heard[sound][piece.split][Path(piece.path).name] = piece.path
    shared = []
    for sound, splits in sorted(heard.items()):
        holders = {split: min(of_split.items()) for split, of_split in sorted(splits.items())}
        # only files of equal sums are decoded, and of those one
        if len(holders) > 1 and not (sound.startswith("audio ") and audio.silent(next(iter(holders.values()))[1])):
            shared.append(f"{sound}: " + ", ".join(f"{split} ({name})" for split, (name, _) in holders.items()))
    return shared


def _merge(folder: Path, shards: int, classes: ClassSet):
    clips, strong, weak = [], {}, {}
    for shard in range(shards):
        paths = {part: folder / f"{shard}.{part}.tsv" for part in ("clips", "strong", "weak")}
        missing = [str(path) for path in paths.values() if not path.is_file()]
        if missing:
            raise LabelError(f"{missing[0]}: this shard is missing; run `prepare` for shard {shard} of {shards}")
        of_shard = read_clips(paths["clips"])
        seconds = {clip.id: clip.seconds for clip in of_shard}
        clips += of_shard
        strong |= read_events(paths["strong"], classes, seconds)
        weak |= read_weak(paths["weak"], classes)
    twice = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        paths = [clip.path for clip in clips if clip.id == twice[0]]
        raise LabelError(
            f"{len(twice)} clip names refer to two files each, e.g. {twice[0]!r}: {paths}; rename one of them"
        )
    absent = [clip.path for clip in clips if not Path(clip.path).is_file()]
    if absent:
        raise LabelError(
            f"{len(absent)} clips of the manifests are not on disk, e.g. {absent[:5]}; prepare their shards again"
        )
    return clips, strong, weak


def _drop_others(manifests: Path, sources: Mapping[str, str]) -> None:
    """Delete tables of sources from earlier settings: otherwise an outdated test set would be evaluated."""
    own = {*sources, *(f"{split}_durations" for split in HELD_OUT if split in sources)}
    for table in manifests.glob("*.tsv"):
        if table.stem not in own | OTHER_TABLES:
            table.unlink()


def _write_source(manifests: Path, source: str, kind: str, clips: list[Clip], strong, weak) -> None:
    labels = {"strong": strong, "soft": strong, "weak": weak, "none": {clip.id: () for clip in clips}}[kind]
    unlabeled = [clip.id for clip in clips if clip.id not in labels]
    if unlabeled:
        raise LabelError(
            f"{source}: {len(unlabeled)} clips have no {kind} labels, e.g. {unlabeled[:5]}; "
            "a clip without events needs a row with its file name only"
        )
    if not clips:
        raise LabelError(
            f"{source}: no clips at all; set its count to more than 0, or leave the source out: `{source}: false` of "
            "the corpus, where it has that setting, and no share of it in `sources`"
        )
    path = manifests / f"{source}.tsv"
    if kind in EVENT_KINDS:
        of_source = {clip.id: strong[clip.id] for clip in clips}
        if source in HELD_OUT and kind == "strong":
            # a judge counts an event once, and refuses it in two rows: said here it costs no training
            of_source = {clip: merge_events(events) for clip, events in of_source.items()}
        write_events(path, of_source, suffix=SUFFIX, confidences=kind == "soft")
    elif kind == "weak":
        write_weak(path, {clip.id: weak[clip.id] for clip in clips}, suffix=SUFFIX)
    else:
        write_table(path, ("filename",), [(clip.id + SUFFIX,) for clip in sorted(clips, key=lambda clip: clip.id)])
    if source in HELD_OUT:
        write_durations(manifests / f"{source}_durations.tsv", {clip.id: clip.seconds for clip in clips}, suffix=SUFFIX)
