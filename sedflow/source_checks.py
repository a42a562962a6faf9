"""Warnings about labels and audio of training sources: class balance, negatives, overlaps, the mix of sources.

Nothing is refused: a source may be intended as it is. The warnings are those of BEATs-SED's README, with the counts.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sedflow import audio
from sedflow.events import ClassSet, Clip, Event
from sedflow.groups import FEWEST, independent
from sedflow.params import HELD_OUT
from sedflow.recordings import SOUNDS
from sedflow.source_mix import MIX, mix_doubts

RARE = 10  # times as many clips with the commonest class as with the rarest
EVERYWHERE = 0.9  # share of a weak source's clips
SILENT_RMS = 1e-3  # -60 dB of full scale

log = logging.getLogger(__name__)


def warn_of_sources(
    clips: Sequence[Clip],
    sources: Mapping[str, str],
    strong: Mapping[str, Sequence[Event]],
    weak: Mapping[str, Sequence[str]],
    classes: ClassSet,
) -> list[str]:
    """Log a warning for each doubt about a training source, and for held-out ones that lack classes or recordings.

    Parameters
    ----------
    clips : of all sources
    sources : source → kind of its labels
    strong, weak : clip id → events, clip id → labels

    Returns
    -------
    list of str    the warnings
    """
    warnings = []
    for source, kind in sources.items():
        if kind == "none":
            continue
        of_source = [clip for clip in clips if clip.source == source]
        labels = {clip.id: _labels(clip.id, kind, strong, weak) for clip in of_source}
        if source in HELD_OUT:
            warnings += [f"{source}: {doubt}: metrics on it will not cover that" for doubt in _absent(labels, classes)]
            warnings += [f"{source}: {doubt}" for doubt in _few(of_source)]
            continue
        found = _absent(labels, classes) + _balance(labels, classes, kind)
        if kind == "weak":
            found += _silent_negatives([clip for clip in of_source if not labels[clip.id]])
        if source.startswith("synthetic"):
            found += _overlaps([strong[clip.id] for clip in of_source])
        warnings += [f"{source}: {doubt}" for doubt in found]
    seconds: Counter[str] = Counter()
    for clip in clips:
        seconds[clip.source] += clip.seconds
    warnings += mix_doubts({source: seconds[source] for source in sources if source in MIX}, "the training audio")
    for warning in warnings:
        log.warning("%s", warning)
    return warnings


def _labels(clip: str, kind: str, strong, weak) -> set[str]:
    """Classes that a clip more likely has than not."""
    return set(weak[clip]) if kind == "weak" else {event.label for event in strong[clip] if event.confidence > SOUNDS}


def _absent(labels: Mapping[str, set[str]], classes: ClassSet) -> list[str]:
    found = set().union(*labels.values())
    absent = [label for label in classes.labels if label not in found]
    return [f"none of its {len(labels)} clips has {', '.join(absent)}"] if absent else []


def _few(clips: Sequence[Clip]) -> list[str]:
    number = independent([clip.id for clip in clips], {clip.id: clip.recordings for clip in clips})
    if number >= FEWEST:
        return []
    return [f"{number} independent recordings are too few for confidence intervals; {FEWEST} or more are needed"]


def _balance(labels: Mapping[str, set[str]], classes: ClassSet, kind: str) -> list[str]:
    counts = Counter(label for of_clip in labels.values() for label in of_clip)
    doubts = []
    if counts and (most := counts.most_common(1)[0])[1] > RARE * (least := counts.most_common()[-1])[1]:
        doubts.append(
            f"{most[1]} of its {len(labels)} clips have {most[0]!r}, but {least[1]} {least[0]!r}; "
            "add clips of rare classes, or set its `sampling` to balanced"
        )
    for label, count in counts.items() if kind == "weak" and len(classes.labels) > 1 else ():
        if count > EVERYWHERE * len(labels):
            doubts.append(f"{label!r} is in {count} of its {len(labels)} clips; add clips without it")
    return doubts


def _silent_negatives(negatives: Iterable[Clip]) -> list[str]:
    """Clips without any class that are silence: they only teach that silence has no events."""
    paths = [Path(clip.path) for clip in negatives]
    silent = [path for path in paths if np.sqrt(np.mean(np.square(audio.read(path)), dtype=np.float64)) < SILENT_RMS]
    if not silent:
        return []
    return [
        f"{len(silent)} of its {len(paths)} clips without events are silent (below -60 dB), e.g. "
        f"{', '.join(path.name for path in silent[:3])}; negatives should sound like its place of use"
    ]


def _overlaps(events_of_clips: Sequence[Sequence[Event]]) -> list[str]:
    several = [sorted(events, key=lambda event: event.onset) for events in events_of_clips if len(events) > 1]
    if not several or any(_overlap(events) for events in several):
        return []
    return [
        f"in none of its {len(several)} clips with several events do two sound at once; events in real clips overlap"
    ]


def _overlap(events: Sequence[Event]) -> bool:
    """Whether two of the events, in order of onset, sound at once."""
    until = 0.0
    for event in events:
        if event.onset < until:
            return True
        until = max(until, event.offset)
    return False
