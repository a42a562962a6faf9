"""The tables of one or several corpora as training reads them: clips, labels, and what each label set covers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sedflow.collect import find_leaks
from sedflow.events import ClassSet, Clip, LabelError, read_clips, read_events, read_weak
from sedflow.params import EVENT_KINDS, HELD_OUT

PUBLIC = ("youtube/", "freesound/")  # names of recordings that all corpora give alike


@dataclasses.dataclass(frozen=True)
class Manifests:
    """The label tables of one or several corpora, joined.

    ``kinds`` is the kind of labels per source; ``known`` the classes they cover per clip, (classes,) bool.
    """

    clips: list[Clip]
    kinds: dict[str, str]
    strong: dict[str, list]
    weak: dict[str, tuple[str, ...]]
    classes: ClassSet
    known: dict[str, np.ndarray]

    def of(self, sources) -> list[Clip]:
        """Clips of these sources."""
        return [clip for clip in self.clips if clip.source in set(sources)]


def read_manifests(folders: Sequence[Path], corpora: Sequence) -> Manifests:
    """Read the manifests of several corpora and check every label against their class lists.

    The classes are those of all corpora, in order. A clip's labels cover its own corpus' classes (its ``labelled``,
    see `sedflow.corpora`) and, in training, of the labels of other corpora that its corpus ``copies``.

    Parameters
    ----------
    folders : sequence of Path    ``data/manifests/<corpus>``, one per corpus
    corpora : sequence    the corpus plugins, in the same order

    Raises
    ------
    LabelError    two clips with one name, a source of two kinds, a label outside the classes
    LeakError    one corpus trains on audio, or a public recording, that another tests on
    """
    classes = joint_classes(corpora)
    joined = Manifests([], {}, {}, {}, classes, {})
    for folder, corpus in zip(folders, corpora, strict=True):
        clips = read_clips(Path(folder) / "clips.tsv")
        _check(Path(folder), clips, corpus, joined)
        joined.clips.extend(clips)
        joined.kinds.update(corpus.sources)
        seconds = {clip.id: clip.seconds for clip in clips}
        for source, kind in corpus.sources.items():
            copies = {} if source in HELD_OUT else _copies(corpus, classes)
            mask = _mask(corpus, source, copies, classes)
            joined.known.update({clip.id: mask for clip in clips if clip.source == source})
            table = Path(folder) / f"{source}.tsv"
            if kind in EVENT_KINDS:
                events = read_events(table, classes, seconds, needs_confidence=kind == "soft")
                joined.strong.update({clip: _copied(of_clip, copies) for clip, of_clip in events.items()})
            elif kind == "weak":
                labels = read_weak(table, classes)
                joined.weak.update({clip: _with_copies(of_clip, copies) for clip, of_clip in labels.items()})
    if len(folders) > 1:
        find_leaks([_publicly_named(clip) for clip in joined.clips])
    return joined


def joint_classes(corpora: Sequence) -> ClassSet:
    """The classes of all corpora, each once, in order."""
    labels = tuple(dict.fromkeys(label for corpus in corpora for label in corpus.classes))
    aliases = {alias: label for corpus in corpora for alias, label in corpus.classes.aliases.items()}
    if clashes := sorted(set(aliases) & set(labels)):
        raise LabelError(f"{clashes[0]!r} is a class in one corpus and an alias of a class in another; rename it")
    return ClassSet(labels, aliases)


def _publicly_named(clip: Clip) -> Clip:
    """The clip with those of its recordings whose names mean the same in every corpus."""
    return dataclasses.replace(clip, recordings=tuple(name for name in clip.recordings if name.startswith(PUBLIC)))


def _check(folder: Path, clips: list[Clip], corpus, joined: Manifests) -> None:
    twice = sorted(clip.id for clip in clips if clip.id in joined.known)
    if twice:
        raise LabelError(
            f"{folder / 'clips.tsv'}: {len(twice)} clips have the name of another corpus' clip, e.g. {twice[:10]}"
        )
    for source, kind in corpus.sources.items():
        if joined.kinds.get(source, kind) != kind:
            raise LabelError(
                f"{folder}: {source!r} has {kind} labels here and {joined.kinds[source]} labels in an earlier corpus; "
                "a source has one kind of labels in a system"
            )


def _copies(corpus, classes: ClassSet) -> dict[str, tuple[str, ...]]:
    """The corpus' own label → labels of other corpora it also stands for; aliases resolved."""
    copies = getattr(corpus, "copies", {})
    strangers = sorted({label for own, others in copies.items() for label in (own, *others)} - set(classes))
    if strangers:
        raise LabelError(f"copies: {strangers[0]!r} is not a class of this system; choose from {list(classes)}")
    return {own: tuple(others) for own, others in copies.items()}


def _mask(corpus, source: str, copies: Mapping, classes: ClassSet) -> np.ndarray:
    labelled = getattr(corpus, "labelled", None) or list(corpus.classes)
    if isinstance(labelled, Mapping):
        labelled = labelled.get(source, list(corpus.classes))
    mask = np.zeros(len(classes), dtype=bool)
    mask[[classes.index(label) for label in labelled]] = True
    mask[[classes.index(label) for own, others in copies.items() if own in labelled for label in others]] = True
    return mask


def _copied(events: list, copies: Mapping) -> list:
    also = [dataclasses.replace(event, label=label) for event in events for label in copies.get(event.label, ())]
    return sorted(events + also) if also else events


def _with_copies(labels: tuple[str, ...], copies: Mapping) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*labels, *(other for label in labels for other in copies.get(label, ())))))
