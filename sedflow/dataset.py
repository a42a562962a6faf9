"""Manifests → batches with a named share per source.

A batch is a pure function of (seed, step): which clips, in which order. So a run resumed at step k sees exactly what
the uninterrupted run saw, with any number of loader processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sedflow import audio, sampling
from sedflow.events import Clip, LabelError
from sedflow.features import Cache
from sedflow.frames import frame_targets
from sedflow.params import PSEUDO
from sedflow.pseudo import PseudoLabels
from sedflow.sampling import Draws

EVENT_KINDS = ("strong", "soft")  # of labels that say when


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a detector reads: for each encoder the furthest of what is there.

    A waveform (batch, samples) is there for all. By name of the encoder: ``spectra``, linear mel, and ``features``,
    what its network reads, both (batch, bands, time), and ``embeddings`` (batch, frames, dim).
    """

    waveform: Tensor | None
    embeddings: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    spectra: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    features: dict[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How a batch was mixed: row i is weight[i] of itself and 1 − weight[i] of row partner[i].

    ``group`` (batch,) numbers the rows that were mixed among each other, ``domain`` says what was mixed ("waveform",
    "spectrum" or "features"), ``clean_too`` whether what the teacher reads was mixed as well.
    """

    partner: Tensor
    weight: Tensor
    group: Tensor
    domain: str = "waveform"
    clean_too: bool = False

    def apply(self, values: Tensor) -> Tensor:
        """Mix (batch, …) as the batch was mixed."""
        weight = self.weight.view(-1, *[1] * (values.dim() - 1)).to(values.dtype)
        return weight * values + (1 - weight) * values[self.partner]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Clips of several sources. Rows are found by source, never by position.

    ``inputs`` is what the student reads, ``clean`` what the teacher reads: the same clips before mixing and masking.
    ``strong`` (batch, frames, classes) and ``weak`` (batch, classes) are targets in [0, 1], ``kinds`` says per row
    which of them hold ("strong", "soft", "weak", "pseudo" or "none"; strong targets of "soft" rows are confidences);
    ``valid`` (batch, frames) is False where a clip is padding.

    ``known`` (batch, classes) is False for classes that the row's labels do not speak of: there a target of 0 means
    nothing. Unset, every class is known. ``pseudo`` (batch, frames, classes) are an ensemble's probabilities, None if
    no clip has any; they hold where ``has_pseudo`` (batch,), whatever the row's kind, and for every class. What moves
    or mixes ``strong`` moves and mixes ``pseudo`` the same way.
    """

    inputs: Inputs
    clean: Inputs
    strong: Tensor
    weak: Tensor
    valid: Tensor
    sources: tuple[str, ...]
    kinds: tuple[str, ...]
    clips: tuple[str, ...]
    mixing: Mixing | None = None
    known: Tensor | None = None
    pseudo: Tensor | None = None
    has_pseudo: Tensor | None = None

    def __post_init__(self):
        if self.known is None:
            object.__setattr__(self, "known", torch.ones_like(self.weak, dtype=torch.bool))
        if self.has_pseudo is None:
            object.__setattr__(self, "has_pseudo", torch.zeros(len(self), dtype=torch.bool, device=self.weak.device))

    def __len__(self):
        return len(self.sources)

    def rows(self, source: str) -> Tensor:
        """Row numbers of a source."""
        return torch.tensor([k for k, name in enumerate(self.sources) if name == source], dtype=torch.long)

    def replace(self, **changes) -> Batch:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class ClipSet:
    """Clips with their labels and inputs, read one by one.

    Parameters
    ----------
    clips : list of Clip
    kinds : mapping    source → "strong", "soft", "weak" or "none"
    strong, weak : mapping    clip id → events, clip id → labels
    classes : ClassSet
    grid : FrameGrid
    clip_seconds : float    every clip is padded to this length
    sample_rate : int or None    Hz; None when no waveform is needed
    caches : mapping    encoder name → Cache of its embeddings
    root : Path    folder the clips' paths are relative to
    known : mapping, optional    clip id → (classes,) bool: what its labels speak of; by default all classes
    pseudo : PseudoLabels, optional    an ensemble's probabilities; its clips make up the source ``pseudo``
    """

    def __init__(  # noqa: PLR0913 (the tables of a corpus, each named once)
        self,
        clips,
        kinds,
        strong,
        weak,
        classes,
        *,
        grid,
        clip_seconds,
        sample_rate,
        caches,
        root,
        known=None,
        pseudo=None,
    ):
        self.clips: dict[str, Clip] = {clip.id: clip for clip in clips}
        self.kinds, self.strong, self.weak, self.classes = kinds, strong, weak, classes
        self.grid, self.clip_seconds, self.sample_rate = grid, clip_seconds, sample_rate
        self.frames = grid.frames(clip_seconds)
        self.caches: Mapping[str, Cache] = caches
        self.root = Path(root)
        self.known: Mapping[str, np.ndarray] = known or {}
        self.pseudo: PseudoLabels | None = pseudo
        for clip in clips:
            if clip.seconds > clip_seconds + 0.5 / grid.frame_rate:
                raise LabelError(
                    f"{clip.path}: {clip.seconds:.2f} s is longer than clip_seconds ({clip_seconds} s); "
                    "let the corpus cut it, or raise clip_seconds"
                )
            for store in (*caches.values(), *([pseudo] if pseudo is not None else [])):
                store.check(clip)

    def of_source(self, source: str) -> list[str]:
        """Ids of a source's clips, in order; those of ``pseudo`` are the clips that have pseudo-labels."""
        if source == PSEUDO:
            return sorted(clip for clip in self.clips if self.pseudo is not None and clip in self.pseudo)
        return sorted(clip.id for clip in self.clips.values() if clip.source == source)

    def balanced_weights(self, source: str) -> np.ndarray:
        """Chances of a source's clips, in the order of `of_source`, with which rare classes come more often."""
        kind, ids = self.kinds.get(source, PSEUDO), self.of_source(source)
        if kind in EVENT_KINDS:
            amounts = [sampling.active_frames(self.strong.get(clip, ()), self.grid) for clip in ids]
            return sampling.balanced_weights(amounts, sampling.FRAMES_OFFSET)
        if kind == "weak":
            amounts = [dict.fromkeys(self.weak.get(clip, ()), 1) for clip in ids]
            return sampling.balanced_weights(amounts, sampling.CLIPS_OFFSET)
        raise LabelError(f"sampling: {source!r} has {kind} labels, which cannot be balanced; set it to uniform")

    def batch(self, ids: list[str], sources: Sequence[str] | None = None) -> Batch:
        """Read these clips, in this order; ``sources`` says what each was drawn for, by default its own source."""
        clips = [self.clips[clip] for clip in ids]
        sources = tuple(sources or (clip.source for clip in clips))
        kinds = tuple(PSEUDO if source == PSEUDO else self.kinds[source] for source in sources)
        waveform = None
        if self.sample_rate is not None:
            waveform = torch.from_numpy(np.stack([self._waveform(clip) for clip in clips]))
        embeddings = {name: torch.from_numpy(cache.read(ids)) for name, cache in self.caches.items()}
        inputs = Inputs(waveform, embeddings)
        strong = np.stack([self._strong(clip, kind) for clip, kind in zip(clips, kinds, strict=True)])
        weak = np.stack([self._weak(clip, kind) for clip, kind in zip(clips, kinds, strict=True)])
        valid = np.stack([np.arange(self.frames) < self.grid.frames(clip.seconds) for clip in clips])
        everything = np.ones(len(self.classes), dtype=bool)
        known = np.stack([self.known.get(clip, everything) for clip in ids])
        pseudo, has_pseudo = (None, None) if self.pseudo is None else self.pseudo.read(ids, self.frames)
        return Batch(
            inputs=inputs,
            clean=inputs,
            strong=torch.from_numpy(strong),
            weak=torch.from_numpy(weak),
            valid=torch.from_numpy(valid),
            sources=sources,
            kinds=kinds,
            clips=tuple(ids),
            known=torch.from_numpy(known),
            pseudo=None if pseudo is None else torch.from_numpy(pseudo),
            has_pseudo=None if has_pseudo is None else torch.from_numpy(has_pseudo),
        )

    def _waveform(self, clip: Clip) -> np.ndarray:
        samples = audio.read(self.root / clip.path, self.sample_rate)
        length = round(self.clip_seconds * self.sample_rate)
        padded = np.zeros(length, dtype=np.float32)
        padded[: min(length, len(samples))] = samples[:length]
        return padded

    def _strong(self, clip: Clip, kind: str) -> np.ndarray:
        events = self.strong.get(clip.id, []) if kind in EVENT_KINDS else []
        return frame_targets(events, self.classes, self.grid, self.frames)

    def _weak(self, clip: Clip, kind: str) -> np.ndarray:
        """Clip targets; of a clip with events, its surest event of each class."""
        targets = np.zeros(len(self.classes), dtype=np.float32)
        if kind in EVENT_KINDS:
            for event in self.strong.get(clip.id, []):
                column = self.classes.index(event.label)
                targets[column] = max(targets[column], event.confidence)
        elif kind == "weak":
            targets[[self.classes.index(label) for label in self.weak.get(clip.id, ())]] = 1
        return targets


class TrainingBatches(torch.utils.data.Dataset):
    """Batch number k of a run, for any k: each source's clips are drawn anew each time all of its round were used.

    Parameters
    ----------
    clips : ClipSet
    shares : mapping    source → clips per batch; what is 0 is not even looked at
    seed : int
    sampling : mapping, optional    source → "uniform" (default) or "balanced", see `sedflow.sampling`
    round_batches : int, optional    batches between two validations: the length of a balanced round
    """

    def __init__(
        self,
        clips: ClipSet,
        shares: Mapping[str, int],
        seed: int,
        sampling: Mapping[str, str] | None = None,
        round_batches: int | None = None,
    ):
        self.clips = clips
        self.shares = {source: share for source, share in shares.items() if share}
        pools = {source: clips.of_source(source) for source in self.shares}
        if empty := [source for source, pool in pools.items() if not pool]:
            raise LabelError(f"no clips in {empty}; the corpus made none. Set their share to 0 or prepare them")
        self.draws = {}
        for source, share in self.shares.items():
            balanced = (sampling or {}).get(source) == "balanced"
            weights = clips.balanced_weights(source) if balanced else None
            round_clips = round_batches and round_batches * share
            self.draws[source] = Draws(pools[source], seed, source, weights, round_clips)

    def ids(self, step: int) -> list[str]:
        """Clip ids of batch ``step``."""
        return [
            self.draws[source][position]
            for source, share in self.shares.items()
            for position in range(step * share, (step + 1) * share)
        ]

    def __getitem__(self, step: int) -> Batch:
        sources = [source for source, share in self.shares.items() for _ in range(share)]
        return self.clips.batch(self.ids(step), sources)
