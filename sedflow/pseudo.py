"""Pseudo-labels as training reads them: the averaged logits that `sedflow.ensemble` wrote, as probabilities.

They are stored like the feature cache, (clips, frames, classes) in fp16; the index also names the classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sedflow.events import ClassSet, Clip
from sedflow.features import Cache, CacheError
from sedflow.frames import FrameGrid


class PseudoLabels:
    """Probabilities of an ensemble by clip id.

    Parameters
    ----------
    files : iterable of Path    ``.npy`` files, in fp16 logits
    classes : ClassSet    column order of what `read` gives
    grid : FrameGrid    the grid of the logits
    """

    def __init__(self, files: Iterable[Path], classes: ClassSet, grid: FrameGrid):
        files = [Path(path) for path in files]
        self._cache = Cache(files)
        self._columns: list[int] = []
        for path in files:
            index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            stored = index.get("classes", [])
            if missing := [label for label in classes if label not in stored]:
                raise CacheError(f"{path}: no logits of {missing[:5]}; the ensemble was trained on other classes")
            columns = [stored.index(label) for label in classes]
            if self._columns and columns != self._columns:
                raise CacheError(f"{path}: its classes are in a different order than in {files[0]}; make both again")
            self._columns = columns
            if abs(index["frame_rate"] - grid.frame_rate) > 1e-9:
                raise CacheError(
                    f"{path}: {index['frame_rate']:g} frames per second, the detector has {grid.frame_rate:g}; "
                    "members of an ensemble and stages that learn from it need the same frame_rate"
                )

    def __contains__(self, clip: str) -> bool:
        return clip in self._cache

    def __len__(self):
        return len(self._cache)

    def check(self, clip: Clip) -> None:
        """Refuse a clip whose audio is no longer the audio that was scored."""
        if clip.id in self:
            self._cache.check(clip, "score_source")

    def read(self, ids: Sequence[str], frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of clips.

        Returns
        -------
        probabilities : (clips, frames, classes) float32    0 where a clip has none, or is shorter
        has_pseudo : (clips,) bool
        """
        has_pseudo = np.array([clip in self for clip in ids], dtype=bool)
        probabilities = np.zeros((len(ids), frames, len(self._columns)), dtype=np.float32)
        if has_pseudo.any():
            logits = self._cache.read([clip for clip in ids if clip in self])[:, :frames, self._columns]
            probabilities[has_pseudo, : logits.shape[1]] = 0.5 * (1 + np.tanh(0.5 * logits))
        return probabilities, has_pseudo
