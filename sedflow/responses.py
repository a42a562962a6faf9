"""Impulse responses from a folder of the user's."""

from __future__ import annotations

import functools

import numpy as np

from sedflow import audio

_SUFFIXES = (".wav", ".flac")


@functools.cache
def read_responses(folder: str, sample_rate: int) -> tuple[np.ndarray, ...]:
    """Responses of a folder at a rate in Hz, of energy 1 so that loudness stays about the same.

    Raises
    ------
    FileNotFoundError    the folder is missing or holds none
    AudioError    a file that cannot be read
    """
    files = [path for path in audio.recordings(folder) if path.suffix.lower() in _SUFFIXES]
    if not files:
        raise FileNotFoundError(
            f"device_impulse: {folder!r} holds no .wav or .flac files; put impulse responses of devices there (MicIRP "
            "is a free collection), or remove device_impulse from `augment`"
        )
    responses = [audio.read(path, sample_rate) for path in files]
    return tuple(response / max(float(np.linalg.norm(response)), 1e-8) for response in responses)
