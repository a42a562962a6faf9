"""Manifests → batches: clips with their labels and inputs, rows that are found by source."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sedflow import audio, sampling
from sedflow.events import Clip, Event, LabelError
from sedflow.features import Cache
from sedflow.frames import frame_targets
from sedflow.params import EVENT_KINDS, HELD_OUT, PSEUDO
from sedflow.pseudo import PseudoLabels


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
    Both are one object as long as nothing tells them apart, so that front ends compute (and jitter) once for both.
    ``strong`` (batch, frames, classes) and ``weak`` (batch, classes) are targets in [0, 1], ``kinds`` says per row
    which of them hold ("strong", "soft", "weak", "pseudo" or "none"; strong targets of "soft" rows are confidences);
    ``valid`` (batch, frames) is False where a clip is padding.

    ``known`` (batch, classes) is False for classes that the row's labels do not speak of: there a target of 0 means
    nothing. Unset, every class is known. ``pseudo`` (batch, frames, classes) are an ensemble's probabilities, None if
    the stage has none; they hold where ``has_pseudo`` (batch,), whatever the row's kind, and for every class. What
    moves or mixes ``strong`` moves and mixes ``pseudo`` the same way.

    ``clean_known`` and ``clean_valid`` are ``known`` and ``valid`` of what the teacher reads, where that was not mixed;
    unset, they are the same.
    ``beneath`` holds other clips of the same sources, one for each row whose labels say when and whose source wavmix
    wants them for, in order of the rows.
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
    clean_known: Tensor | None = None
    clean_valid: Tensor | None = None
    beneath: Batch | None = None

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

    @property
    def unmixed(self) -> Batch:
        """The same rows with the masks of the clips that the teacher reads."""
        masks = {"known": self.clean_known, "valid": self.clean_valid}
        return self.replace(**{name: mask for name, mask in masks.items() if mask is not None})

    @property
    def _tensors(self) -> tuple[str, ...]:
        rows = ("strong", "weak", "valid", "known", "has_pseudo", "pseudo", "clean_known", "clean_valid")
        return tuple(name for name in rows if getattr(self, name) is not None)

    def followed_by(self, other: Batch) -> Batch:
        """Join another batch below it, one that nothing mixed; of what they read, the waveforms."""
        if self.clean_known is not None:
            other = other.replace(clean_known=other.known, clean_valid=other.valid)
        changes = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in self._tensors}
        changes |= {name: getattr(self, name) + getattr(other, name) for name in ("sources", "kinds", "clips")}
        inputs = Inputs(torch.cat([self.inputs.waveform, other.inputs.waveform]))
        apart = self.clean is not self.inputs
        clean = Inputs(torch.cat([self.clean.waveform, other.clean.waveform])) if apart else inputs
        return self.replace(**changes, inputs=inputs, clean=clean, beneath=None)

    def first(self, rows: int) -> Batch:
        """Its first rows; of what it reads, the waveforms."""
        if rows == len(self):
            return self
        changes = {name: getattr(self, name)[:rows] for name in (*self._tensors, "sources", "kinds", "clips")}
        inputs = Inputs(self.inputs.waveform[:rows])
        clean = inputs if self.clean is self.inputs else Inputs(self.clean.waveform[:rows])
        return self.replace(**changes, inputs=inputs, clean=clean)

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
    random_crops : bool    whether training clips, but for weakly labelled ones, may be longer, and are read in parts
    frame_labels : str    see `sedflow.frames.frame_targets`
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
        random_crops=False,
        frame_labels="touched",
    ):
        self.clips: dict[str, Clip] = {clip.id: clip for clip in clips}
        self.kinds, self.strong, self.weak, self.classes = kinds, strong, weak, classes
        self.grid, self.clip_seconds, self.sample_rate = grid, clip_seconds, sample_rate
        self.frames = grid.frames(clip_seconds)
        self.caches: Mapping[str, Cache] = caches
        self.root = Path(root)
        self.known: Mapping[str, np.ndarray] = known or {}
        self.pseudo: PseudoLabels | None = pseudo
        self.frame_labels = frame_labels
        for clip in clips:
            # a label of a whole clip may be false of a part
            cropped = random_crops and clip.source not in HELD_OUT and kinds[clip.source] != "weak"
            if self.starts(clip.id) > 1 and not cropped:
                raise LabelError(
                    f"{clip.path}: {clip.seconds:.2f} s is longer than clip_seconds ({clip_seconds} s); "
                    "let the corpus cut it, raise clip_seconds, or (not for weak labels) train on `random_crops`"
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

    def starts(self, clip: str) -> int:
        """Number of frames at which a part of full length can begin: more than 1 in clips that are too long."""
        beyond = self.clips[clip].seconds - self.clip_seconds
        return 1 + max(0, math.floor(beyond * self.grid.frame_rate + 0.5))

    def batch(
        self, ids: list[str], sources: Sequence[str] | None = None, begins: Sequence[float] | None = None
    ) -> Batch:
        """Read these clips, in this order.

        Parameters
        ----------
        sources : sequence of str, optional    what each was drawn for, by default its own source
        begins : sequence of float, optional    seconds into each clip at which its part begins, by default 0
        """
        clips = [self.clips[clip] for clip in ids]
        begins = begins or [0.0] * len(clips)
        sources = tuple(sources or (clip.source for clip in clips))
        kinds = tuple(PSEUDO if source == PSEUDO else self.kinds[source] for source in sources)
        waveform = None
        if self.sample_rate is not None:
            waveforms = [self._waveform(clip, begin) for clip, begin in zip(clips, begins, strict=True)]
            waveform = torch.from_numpy(np.stack(waveforms))
        embeddings = {name: torch.from_numpy(cache.read(ids)) for name, cache in self.caches.items()}
        inputs = Inputs(waveform, embeddings)
        events = [self._events(*row) for row in zip(clips, kinds, begins, strict=True)]
        strong = np.stack([self._strong(of_clip) for of_clip in events])
        weak = np.stack([self._weak(*row) for row in zip(clips, kinds, events, strict=True)])
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

    def _waveform(self, clip: Clip, begin: float) -> np.ndarray:
        whole = begin == 0 and self.starts(clip.id) == 1
        part = {} if whole else {"onset": begin, "seconds": self.clip_seconds}
        samples = audio.read(self.root / clip.path, self.sample_rate, **part)
        length = round(self.clip_seconds * self.sample_rate)
        padded = np.zeros(length, dtype=np.float32)
        padded[: min(length, len(samples))] = samples[:length]
        return padded

    def _events(self, clip: Clip, kind: str, begin: float) -> list[Event]:
        """Events of the part of a clip that begins at ``begin``, in seconds from there."""
        events = self.strong.get(clip.id, []) if kind in EVENT_KINDS else []
        if begin == 0 and self.starts(clip.id) == 1:
            return events
        end = begin + self.clip_seconds
        return [
            dataclasses.replace(event, onset=max(event.onset, begin) - begin, offset=min(event.offset, end) - begin)
            for event in events
            if event.onset < end and event.offset > begin
        ]

    def _strong(self, events: list[Event]) -> np.ndarray:
        return frame_targets(events, self.classes, self.grid, self.frames, self.frame_labels)

    def _weak(self, clip: Clip, kind: str, events: list[Event]) -> np.ndarray:
        """Clip targets; of a clip with events, its surest event of each class."""
        targets = np.zeros(len(self.classes), dtype=np.float32)
        for event in events:
            column = self.classes.index(event.label)
            targets[column] = max(targets[column], event.confidence)
        if kind == "weak":
            targets[[self.classes.index(label) for label in self.weak.get(clip.id, ())]] = 1
        return targets
