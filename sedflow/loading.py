"""Batches on their way to a process: drawn with a share per source, read ahead by loader processes, moved on.

A batch is a pure function of (seed, step): which clips, which parts of them, in which order. So a run resumed at step k
sees exactly what the uninterrupted run saw, with any number of loader processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from sedflow.audio import AudioError
from sedflow.dataset import Batch, ClipSet
from sedflow.events import LabelError
from sedflow.features import CacheError
from sedflow.params import EVENT_KINDS, PSEUDO
from sedflow.sampling import Draws, stable_number


@dataclasses.dataclass(frozen=True)
class Row:
    """What a row of a batch is read from: a clip from ``begin`` (seconds) on, drawn for a source.

    ``beneath`` is another clip of the source, for wavmix.
    """

    clip: str
    source: str
    begin: float = 0.0
    beneath: Row | None = None


class TrainingBatches(torch.utils.data.Dataset):
    """Batch number k of a run, for any k: each source's clips are drawn again once its round is used up.

    Parameters
    ----------
    clips : ClipSet
    shares : mapping    source → clips per batch; sources with 0 are ignored
    seed : int
    sampling : mapping, optional    source → "uniform" (default) or "balanced", see `sedflow.sampling`
    round_batches : int, optional    batches between two validations: a balanced round where ``epoch_clips`` has none
    beneath : collection of str    sources each of whose clips comes with another one
    epoch_clips : mapping, optional    source → clips of a round
    """

    def __init__(
        self,
        clips: ClipSet,
        shares: Mapping[str, int],
        seed: int,
        sampling: Mapping[str, str] | None = None,
        round_batches: int | None = None,
        beneath=(),
        epoch_clips: Mapping[str, int] | None = None,
    ):
        self.clips, self.seed, self.beneath = clips, seed, frozenset(beneath)
        self.shares = {source: share for source, share in shares.items() if share}
        self.pools = {source: clips.of_source(source) for source in self.shares}
        if empty := [source for source, pool in self.pools.items() if not pool]:
            raise LabelError(f"no clips in {empty}; the corpus produced none. Set their share to 0 or prepare them")
        self.draws = {}
        for source, share in self.shares.items():
            balanced = (sampling or {}).get(source) == "balanced"
            weights = clips.balanced_weights(source) if balanced else None
            between = round_batches * share if balanced and round_batches else None
            round_clips = (epoch_clips or {}).get(source, between)
            self.draws[source] = Draws(self.pools[source], seed, source, weights, round_clips)

    def rows(self, step: int) -> list[Row]:
        """What batch ``step`` is read from."""
        return [
            self._row(source, position)
            for source, share in self.shares.items()
            for position in range(step * share, (step + 1) * share)
        ]

    def ids(self, step: int) -> list[str]:
        """Clip ids of batch ``step``."""
        return [row.clip for row in self.rows(step)]

    def _row(self, source: str, position: int) -> Row:
        rng = np.random.default_rng([self.seed, stable_number(f"{source} parts"), position])
        clip, beneath = self.draws[source][position], None
        begin = self._begin(clip, rng)
        if source in self.beneath:
            other = self.pools[source][rng.integers(len(self.pools[source]))]
            beneath = Row(other, source, self._begin(other, rng))
        return Row(clip, source, begin, beneath)

    def _begin(self, clip: str, rng: np.random.Generator) -> float:
        return int(rng.integers(self.clips.starts(clip))) * self.clips.grid.hop_seconds

    def read(self, rows: list[Row]) -> Batch:
        """The batch of some rows."""
        batch = self._read(rows)
        beneath = [row.beneath for row in rows if row.beneath is not None]
        return batch.replace(beneath=self._read(beneath)) if beneath else batch

    def _read(self, rows: list[Row]) -> Batch:
        return self.clips.batch([r.clip for r in rows], [r.source for r in rows], [r.begin for r in rows])

    def __getitem__(self, step: int) -> Batch:
        return self.read(self.rows(step))


class Share(torch.utils.data.Dataset):
    """What one of several processes reads of each batch: its share of every source, so that each clip is read once.

    Batch norms see the whole batch (`sedflow.batch_statistics.SharedStatistics`), losses are means over all of it. But
    a clip is mixed with clips of its own process, what augmentations draw for the k-th clip of one they draw for the
    k-th of each, and dropout is each process' own: with these, several processes learn from the same clips as one does,
    but not to the same digits.
    """

    def __init__(self, batches: TrainingBatches, process: int, processes: int):
        self.batches, self.process, self.processes = batches, process, processes

    def rows(self, number: int) -> list[Row]:
        """Rows of a batch that are this process' part."""
        by_source: dict[str, list[Row]] = {}
        for row in self.batches.rows(number):
            by_source.setdefault(row.source, []).append(row)
        return [row for rows in by_source.values() for row in rows[self.process :: self.processes]]

    def __getitem__(self, number: int) -> Batch:
        return self.batches.read(self.rows(number))


def sources_beneath(augment: list[dict], clips: ClipSet) -> set[str]:
    """Sources whose clips wavmix wants others of the same source for."""
    say_when = {source for source, kind in clips.kinds.items() if kind in EVENT_KINDS} | {PSEUDO}
    wanted = [s.get("sources") or say_when for s in augment if s["name"] == "wavmix" and s.get("partner") == "source"]
    return say_when & {source for sources in wanted for source in sources}


class Parts(torch.utils.data.Dataset):
    """Batches of clips given by their ids."""

    def __init__(self, clips: ClipSet, parts: list[list[str]]):
        self.clips, self.parts = clips, parts

    def __getitem__(self, number: int) -> Batch:
        return self.clips.batch(self.parts[number])


def loader(dataset, order: Iterable[int], workers: int) -> torch.utils.data.DataLoader:
    """Items of a dataset in this order, read ahead by ``workers`` processes."""
    ahead = {"num_workers": workers, "prefetch_factor": 2 if workers else None}
    return _Loader(_Reading(dataset), batch_size=None, sampler=list(order), **ahead)


class _Reading(torch.utils.data.Dataset):
    """Items of a dataset, or what is wrong with one: raised in a loader process, it would come with a traceback."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, number: int):
        try:
            return self.dataset[number]
        except (AudioError, CacheError, LabelError) as error:
            return error


class _Loader(torch.utils.data.DataLoader):
    """Raises what is wrong with an item in the process that asked for it."""

    def __iter__(self):
        for item in super().__iter__():
            if isinstance(item, Exception):
                raise item
            yield item


def move(value, device):
    """A copy of a batch, inputs or tensor on another device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: move(item, device) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        # what a batch shares it shares afterwards: student and teacher may read one and the same
        moved = {id(part): move(part, device) for part in parts.values()}
        changes = {name: moved[id(part)] for name, part in parts.items()}
        return dataclasses.replace(value, **changes)
    return value
