"""A part of a recording as a clip of ours: 16-bit FLAC at the corpus' rate, and its labels cut along."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sedflow import audio
from sedflow.events import Clip, Event
from sedflow.files import sha256

LONGEST_REST_SECONDS = 0.5  # a shorter end of a long recording is left out
SHORTEST_PART_SECONDS = 0.1  # what a cut leaves of an event, below this, is no event

log = logging.getLogger(__name__)


def write_clip(
    path: Path,
    out: Path,
    source: str,
    sample_rate: int,
    begin: float = 0.0,
    seconds: float | None = None,
    recordings: Sequence[str] = (),
) -> Clip:
    """Write a part of a recording, by default all of it; a peak above full scale lowers the whole of it."""
    waveform = audio.read(path, sample_rate, begin, seconds)
    peak = float(np.abs(waveform).max())
    if peak > 1:  # float files, and full-scale ones after resampling
        log.info("%s: peak %.2f, lowered by %.1f dB", path, peak, 20 * math.log10(peak))
        waveform = waveform / np.float32(peak)
    audio.write(out, waveform, sample_rate)
    return Clip(out.stem, out.as_posix(), len(waveform) / sample_rate, sha256(out), source, tuple(recordings))


def cut_events(events: Iterable[Event], begin: float, end: float) -> list[Event]:
    """The events of a part [begin, end) of a recording, in seconds from ``begin``."""
    parts = []
    for event in events:
        onset, offset = max(event.onset, begin), min(event.offset, end)
        whole = onset == event.onset and offset == event.offset
        if offset - onset >= SHORTEST_PART_SECONDS or (whole and offset > onset):
            parts.append(dataclasses.replace(event, onset=onset - begin, offset=offset - begin))
    return parts


def label_ends(labels: Mapping[str, Iterable[Event]], seconds: float = math.inf) -> dict[str, float]:
    """Clip → where the last of its labels ends, of those in its first so many ``seconds``."""
    cut = {clip: cut_events(events, 0.0, seconds) for clip, events in labels.items()}
    return {clip: max(event.offset for event in events) for clip, events in cut.items() if events}


def windows(total: float, seconds: float, hop_seconds: float) -> Iterator[tuple[float, float]]:
    """Begin and end of windows over a recording; the last one is as long as there is audio, if that is worth it."""
    begin, end = 0.0, 0.0
    while begin == 0 or total - max(begin, end) > LONGEST_REST_SECONDS:
        end = min(total, begin + seconds)
        yield begin, end
        begin = round(begin + hop_seconds, 6)
