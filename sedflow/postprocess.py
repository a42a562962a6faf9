"""Scores → scores that make better events; settings per class, tuned on validation and never on test.

A post-processor is one small class: its fields are the settings of one sound class, calling it turns that class's
scores of all clips into new ones. All of them keep the meaning of a score (a higher one is found first), so that
threshold-free metrics and every threshold see the same post-processing.

- ``none``: nothing.
- ``median_filter``: the median score over ``seconds`` around each moment; independent of the frame rate, and silence
  outside the clip. The numbers are those of sed_scores_eval 0.0.4, ``base_modules.postprocessing.medfilt``.
- ``frame_median_filter``: the median over ``frames``, clip mirrored at its ends; as in the DCASE baselines
  (``scipy.ndimage.median_filter``; an even width leans half a frame into the past).
- ``csebbs``: one box per event (see ``sedflow.sebbs``); between boxes nothing is detected at any threshold.
- ``threshold``: moves ``threshold`` to 0.5, where detections are cut; PSDS stays as it is.
- ``minimum_duration``: at every threshold, closes gaps under ``gap_seconds``, then drops events under ``seconds``.
- ``hysteresis``: an event that begins at some threshold lasts until the score falls below ``ratio`` times it.
- ``chain``: several of these, one after the other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from sedflow import sebbs
from sedflow.ranges import Count, NotNegative, Positive
from sedflow.scores import Scores
from sedflow.stretches import Frames, Tree

_DECIMALS = 8  # edges of different classes closer than this are one


class PostprocessError(ValueError):
    """Post-processing cannot be built, tuned or applied; the message names the setting and the cure."""


@dataclasses.dataclass(frozen=True)
class Untouched:
    """The scores as they are."""

    def __call__(self, values: np.ndarray, frames: Frames) -> tuple[np.ndarray, Frames]:
        """New scores of one class and the frames they are on."""
        return values, frames


@dataclasses.dataclass(frozen=True)
class MedianFilter:
    """Median over ``seconds``; 0 leaves the scores alone."""

    seconds: NotNegative = 0.0

    def __call__(self, values: np.ndarray, frames: Frames) -> tuple[np.ndarray, Frames]:
        """New scores of one class and the frames they are on."""
        if self.seconds == 0:
            return values, frames
        from sedflow.compat import prepare_sed_scores_eval

        prepare_sed_scores_eval()
        from sed_scores_eval.base_modules.cy_medfilt import cy_medfilt

        filtered = []
        for begin, end in _spans(frames):
            edges = np.append(frames.onset[begin], frames.offset[begin:end])
            filtered.append(cy_medfilt(values[begin:end, None], edges, self.seconds))
        return np.concatenate([new[:, 0] for new, _ in filtered]), _with_edges(frames, [edges for _, edges in filtered])


@dataclasses.dataclass(frozen=True)
class FrameMedianFilter:
    """Median over a number of frames; 1 leaves the scores alone."""

    frames: Count = 1

    def __call__(self, values: np.ndarray, frames: Frames) -> tuple[np.ndarray, Frames]:
        """New scores of one class and the frames they are on."""
        from scipy.ndimage import median_filter

        if self.frames == 1:
            return values, frames
        return np.concatenate([median_filter(values[begin:end], self.frames) for begin, end in _spans(frames)]), frames


@dataclasses.dataclass(frozen=True)
class Csebbs:
    """Change-detection boxes; a merge threshold of None is infinite."""

    step_seconds: Positive = 0.48
    merge_absolute: NotNegative | None = 0.2
    merge_relative: NotNegative | None = None

    def __call__(self, values: np.ndarray, frames: Frames) -> tuple[np.ndarray, Frames]:
        """New scores of one class and the frames they are on."""
        limits = [math.inf if limit is None else limit for limit in (self.merge_absolute, self.merge_relative)]
        found = sebbs.boxes(values, frames, self.step_seconds, *limits)
        bounds = np.searchsorted(found.clip, np.arange(len(frames.clips) + 1))
        spans = dict(zip(frames.clip[frames.starts], _spans(frames), strict=True))
        all_edges, all_values = [], []
        for clip, (first, last) in spans.items():
            of_clip = slice(bounds[clip], bounds[clip + 1])
            onset, offset = found.onset[of_clip], found.offset[of_clip]
            edges = np.unique(np.concatenate([[frames.onset[first], frames.offset[last - 1]], onset, offset]))
            scores = np.full(len(edges) - 1, -np.inf)
            scores[np.searchsorted(edges, onset)] = found.confidence[of_clip]
            all_edges.append(edges)
            all_values.append(scores)
        return np.concatenate(all_values), _with_edges(frames, all_edges)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Score above which an event is reported."""

    threshold: float = 0.5

    def __call__(self, values: np.ndarray, frames: Frames) -> tuple[np.ndarray, Frames]:
        """New scores of one class and the frames they are on."""
        return values - self.threshold + 0.5, frames


@dataclasses.dataclass(frozen=True)
class MinimumDuration:
    """Shortest event and shortest gap."""

    seconds: NotNegative = 0.0
    gap_seconds: NotNegative = 0.0

    def __call__(self, values: np.ndarray, frames: Frames) -> tuple[np.ndarray, Frames]:
        """New scores of one class and the frames they are on."""
        if self.gap_seconds > 0:
            gaps = Tree(-values, frames)  # a gap is a stretch of the negative; one at the clip's edge is none
            values = -gaps.climb((gaps.seconds < self.gap_seconds - 1e-6) & ~gaps.at_clip_edge())
        if self.seconds > 0:
            events = Tree(values, frames)
            values = events.climb(events.seconds < self.seconds - 1e-6)
        return values, frames


@dataclasses.dataclass(frozen=True)
class Hysteresis:
    """How far below the threshold that began it an event may fall: 1 is ordinary thresholding."""

    ratio: Annotated[float, Field(gt=0, le=1)] = 1.0

    def __call__(self, values: np.ndarray, frames: Frames) -> tuple[np.ndarray, Frames]:
        """New scores of one class and the frames they are on."""
        if not 0 < self.ratio <= 1:
            raise PostprocessError(f"hysteresis ratio must lie in (0, 1], got {self.ratio}")
        if (values[values > -np.inf] < 0).any():
            raise PostprocessError("hysteresis takes a share of the score, so it needs scores ≥ 0, not logits")
        tree = Tree(values, frames)
        return tree.highest(np.minimum(tree.peak, tree.level / self.ratio)), frames


@dataclasses.dataclass(frozen=True)
class Chain:
    """Several post-processors in order: ``steps`` holds ``{"name": …, **settings}`` each."""

    steps: Sequence[Mapping]

    def __call__(self, values: np.ndarray, frames: Frames) -> tuple[np.ndarray, Frames]:
        """New scores of one class and the frames they are on."""
        for step in self.steps:
            values, frames = one_class(step.get("name"), step)(values, frames)
        return values, frames


KINDS = {
    "none": Untouched,
    "median_filter": MedianFilter,
    "frame_median_filter": FrameMedianFilter,
    "csebbs": Csebbs,
    "threshold": Threshold,
    "minimum_duration": MinimumDuration,
    "hysteresis": Hysteresis,
    "chain": Chain,
}


def one_class(name: str, settings: Mapping):
    """One post-processor with the settings of one class, which may name another kind (``name: none``)."""
    name = settings.get("name", name)
    settings = {key: value for key, value in settings.items() if key != "name"}
    if name not in KINDS:
        raise PostprocessError(f"no post-processor {name!r}; choose from {sorted(KINDS)}")
    known = [field.name for field in dataclasses.fields(KINDS[name])]
    odd = sorted(set(settings) - set(known))
    if odd:
        raise PostprocessError(f"post-processor {name!r} has no setting {odd[0]!r}; its settings are {known}")
    return KINDS[name](**settings)


@dataclasses.dataclass(frozen=True)
class Postprocess:
    """A post-processor with its settings per class.

    Parameters
    ----------
    name : str    one of ``KINDS``
    settings : mapping label → settings of that class
    """

    name: str = "none"
    settings: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)

    def apply(self, scores: Mapping[str, Scores]) -> dict[str, Scores]:
        """Post-process all clips.

        Raises
        ------
        PostprocessError    classes without settings, or settings for classes that the scores lack
        """
        if not scores or (self.name == "none" and not any(self.settings.values())):
            return dict(scores)
        frames = Frames.of(scores)
        odd = sorted(set(self.settings) ^ set(frames.classes))
        if odd:
            raise PostprocessError(
                f"post-processing {self.name!r} was set for {sorted(self.settings)}, the scores have "
                f"{list(frames.classes)}; {len(odd)} classes differ, e.g. {odd[:10]}. Tune it with this detector"
            )
        steps = {label: one_class(self.name, self.settings[label]) for label in frames.classes}
        return _joined(frames, {label: step(frames.column(label), frames) for label, step in steps.items()})


def build(specification: Mapping | None) -> Postprocess:
    """Post-processing from the JSON that travels with a detector; None or ``{}`` does nothing."""
    specification = specification or {}
    name, settings = specification.get("name", "none"), specification.get("settings", {})
    for of_class in settings.values():
        one_class(name, of_class)
    return Postprocess(name, settings)


def _spans(frames: Frames) -> list[tuple[int, int]]:
    return list(zip(frames.starts, np.append(frames.starts[1:], len(frames.clip)), strict=True))


def _with_edges(frames: Frames, edges: list[np.ndarray]) -> Frames:
    """The same clips on other frames."""
    clips = np.repeat(frames.clip[frames.starts], [len(e) - 1 for e in edges])
    onset, offset = np.concatenate([e[:-1] for e in edges]), np.concatenate([e[1:] for e in edges])
    return dataclasses.replace(frames, clip=clips, onset=onset, offset=offset)


def _joined(frames: Frames, columns: Mapping[str, tuple[np.ndarray, Frames]]) -> dict[str, Scores]:
    """One table per clip from classes that may stand on different frames."""
    spans = {label: dict(zip(f.clip[f.starts], _spans(f), strict=True)) for label, (_, f) in columns.items()}
    together = {}
    for number, clip in enumerate(frames.clips):
        parts = []
        for label, (values, own) in columns.items():
            begin, end = spans[label][number]
            parts.append((values[begin:end], np.append(own.onset[begin], own.offset[begin:end])))
        edges = parts[0][1]
        if not all(np.array_equal(edges, other) for _, other in parts[1:]):
            edges = np.unique(np.round(np.concatenate([other for _, other in parts]), _DECIMALS))
        middles = (edges[:-1] + edges[1:]) / 2
        table = np.full((len(middles), len(parts)), -np.inf)
        for k, (values, own_edges) in enumerate(parts):
            frame = np.searchsorted(own_edges, middles, side="right") - 1
            inside = (frame >= 0) & (frame < len(values))
            table[inside, k] = values[frame[inside]]
        together[clip] = Scores(table, edges, frames.classes)
    return together
