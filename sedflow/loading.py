"""Batches on their way to a process: its share of them, read ahead by loader processes, moved to its device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch

from sedflow.dataset import Batch, ClipSet, TrainingBatches


class Share(torch.utils.data.Dataset):
    """What one of several processes reads of each batch: its share of every source, so that each clip is read once."""

    def __init__(self, batches: TrainingBatches, process: int, processes: int):
        self.batches, self.process, self.processes = batches, process, processes

    def rows(self, number: int) -> list[tuple[str, str]]:
        """(clip, source) of this process' part of a batch."""
        sources = [source for source, share in self.batches.shares.items() for _ in range(share)]
        whole = list(zip(self.batches.ids(number), sources, strict=True))
        by_source = [[row for row in whole if row[1] == source] for source in dict.fromkeys(sources)]
        return [row for rows in by_source for row in rows[self.process :: self.processes]]

    def __getitem__(self, number: int) -> Batch:
        ids, sources = zip(*self.rows(number), strict=True)
        return self.batches.clips.batch(list(ids), sources)


class Parts(torch.utils.data.Dataset):
    """Batches of clips given by their ids."""

    def __init__(self, clips: ClipSet, parts: list[list[str]]):
        self.clips, self.parts = clips, parts

    def __getitem__(self, number: int) -> Batch:
        return self.clips.batch(self.parts[number])


def loader(dataset, order: Iterable[int], workers: int) -> torch.utils.data.DataLoader:
    """Items of a dataset in this order, read ahead by ``workers`` processes."""
    return torch.utils.data.DataLoader(
        dataset, batch_size=None, sampler=list(order), num_workers=workers, prefetch_factor=2 if workers else None
    )


def move(value, device):
    """A copy of a batch, inputs or tensor on another device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: move(item, device) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        changes = {field.name: move(getattr(value, field.name), device) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    return value
