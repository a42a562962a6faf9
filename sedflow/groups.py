"""Which clips are independent of each other? Those that share no recording, not even through other clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

FEWEST = 6  # recordings for an interval: of 5 differences with one sign the sign test says p = 0.06


def groups_of(clips: Sequence[str], recordings: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Which clips are drawn together: the number of each clip's group, (clips,).

    A group is clips that share recordings, if only through other clips. One of more than half of the clips would be in
    nearly every draw, or in none: its clips are groups of their own.

    Parameters
    ----------
    recordings : mapping clip → its recordings    clips that it lacks are recordings of their own
    """
    group = _hanging_together([recordings.get(clip) or (clip,) for clip in clips])
    sizes = np.bincount(group)
    return np.where(2 * sizes[group] > len(clips), len(clips) + np.arange(len(clips)), group)


def _hanging_together(recordings: Sequence[Sequence[str]]) -> np.ndarray:
    """Connected components of clips and the recordings in them: a number per clip."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    clip = np.repeat(np.arange(len(recordings)), [len(of_clip) for of_clip in recordings])
    names, recording = np.unique([name for of_clip in recordings for name in of_clip], return_inverse=True)
    nodes = len(recordings) + len(names)
    edges = coo_array((np.ones(len(clip)), (clip, len(recordings) + recording)), shape=(nodes, nodes))
    return connected_components(edges, directed=False)[1][: len(recordings)]


def independent(clips: Sequence[str], recordings: Mapping[str, Sequence[str]]) -> int:
    """How many recordings testify: the groups, or fewer if clips that share a recording are groups of their own."""
    names = {name for clip in clips for name in recordings.get(clip) or (clip,)}
    return min(len(np.unique(groups_of(clips, recordings))), len(names))
