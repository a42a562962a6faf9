"""MP3 files without a header that gives their length: decoders guess it from the bit rate of the first frame."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

_KILOBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # MPEG-1 layer III, by their index
_KILOBITS_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # MPEG-2 and 2.5
_HERTZ = (44100, 48000, 32000)
_DIVISOR = {3: 1, 2: 2, 0: 4}  # of the rate, by the bits of the version: MPEG-1, 2, 2.5
_TOLD_BY = (b"Xing", b"Info", b"VBRI")  # in the first frame
FRAME_SAMPLES = 1152  # of MPEG-1; the others have half


def misread(path, samples: int) -> str:
    """What shows that a decoder which promises so many ``samples`` guesses, and wrongly; nothing if it is right."""
    path = Path(path)
    status = os.stat(path)
    counted, rates = _counted(path, status.st_size, status.st_mtime_ns)
    # the first and last frames may be dropped; of one bit rate the guess is right, whatever stands between the frames
    right = counted is None or abs(counted - samples) <= 2 * FRAME_SAMPLES or (rates == 1 and counted < samples)
    return "" if right else f"no header gives its length: {samples} samples by its bit rate, {counted} by its frames"


@functools.lru_cache(maxsize=64)  # a long recording is opened for each of its parts
def _counted(path: Path, size: int, changed: int) -> tuple[int | None, int]:
    """Samples by frames, and how many bit rates there are; None if a header gives the length."""
    with path.open("rb") as file:
        start = _behind_tags(file)
        file.seek(start)
        head = file.read(4 * FRAME_SAMPLES)
        first = next(_frames(head), None)
        if first is None or any(mark in head[:64] for mark in _TOLD_BY):
            return None, 0
        file.seek(start)
        frames = list(_frames(file.read()))
    return sum(samples for samples, _ in frames), len({kilobits for _, kilobits in frames})


def _behind_tags(file) -> int:
    """Where the ID3v2 tags at the start end."""
    place = 0
    while True:
        file.seek(place)
        tag = file.read(10)
        if len(tag) < 10 or tag[:3] != b"ID3":
            return place
        length = sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
        place += 10 + length + (10 if tag[5] & 16 else 0)  # a footer, if the flag says so


def _frames(content: bytes) -> Iterator[tuple[int, int]]:
    """Samples and bit rate of each frame of layer III, until something else comes."""
    place = 0
    while place + 4 <= len(content):
        sync, second, third = content[place], content[place + 1], content[place + 2]
        version, layer, index, rate = second >> 3 & 3, second >> 1 & 3, third >> 4, third >> 2 & 3
        if sync != 255 or second < 224 or version == 1 or layer != 1 or index in (0, 15) or rate == 3:
            return
        samples = FRAME_SAMPLES if version == 3 else FRAME_SAMPLES // 2
        kilobits = (_KILOBITS if version == 3 else _KILOBITS_LOW)[index]
        yield samples, kilobits
        place += samples // 8 * 1000 * kilobits * _DIVISOR[version] // _HERTZ[rate] + (third >> 1 & 1)
