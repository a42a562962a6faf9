"""Training steps of both stages of the esc10 page: clips per second, and against the step written the usual way.

The usual way: the same network, batch, losses and optimiser, but features from HDF5 in fp32, the contiguous layout,
and parameters averaged one by one into the teacher. Both give the same loss; the ratio is that of whole steps.
"""

import copy
import tempfile
from pathlib import Path

import common
import h5py
import numpy as np
import torch

from sedflow.dataset import Batch, Inputs
from sedflow.detector import build_detector
from sedflow.events import Clip
from sedflow.features import Cache, write_shard
from sedflow.learner import Step
from sedflow.memory import keep_pages
from sedflow.optimization import build_optimizer
from sedflow.stage_plugins import build_loss
from sedflow.systems import read_system

CLASSES, FRAMES, STORED = 7, 250, 128


def page_stage(name):
    """Detector and stage settings of the esc10 page; batch size as there."""
    system = read_system("esc10").model_dump(mode="json")
    return system["detector"], system["stages"][name]


def batch_of(stage, waveform, embeddings):
    """A batch with the page's sources and random targets."""
    kinds = {"synthetic_strong": "strong", "weak": "weak", "unlabeled": "none"}
    sources = tuple(source for source, share in stage["sources"].items() for _ in range(share))
    generator = torch.Generator().manual_seed(0)
    inputs = Inputs(waveform, embeddings)
    return Batch(
        inputs=inputs,
        clean=inputs,
        strong=(torch.rand(len(sources), FRAMES, CLASSES, generator=generator) > 0.9).float(),
        weak=(torch.rand(len(sources), CLASSES, generator=generator) > 0.7).float(),
        valid=torch.ones(len(sources), FRAMES, dtype=torch.bool),
        sources=sources,
        kinds=tuple(kinds[source] for source in sources),
        clips=tuple(map(str, range(len(sources)))),
    )


class Run:
    """One network with its teacher, losses and optimiser; a call is one step and gives its loss."""

    def __init__(self, detector, stage, usual):
        self.usual = usual
        torch.manual_seed(0)
        self.student = build_detector(detector | {"dropout": 0.0}, CLASSES)
        self.student.freeze(stage["freeze"])
        self.student.train()
        for part in self.student.encoders.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()
        if usual:
            self.student.to(memory_format=torch.contiguous_format)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.losses = [(build_loss(spec), spec.get("weight", 1.0)) for spec in stage["losses"]]
        self.optimizer = build_optimizer(self.student, stage["optimizer"])

    def __call__(self, batch):
        """One step; returns its loss."""
        student = self.student(batch.inputs.waveform, batch.inputs.embeddings, FRAMES)
        with torch.no_grad():
            teacher = self.teacher(batch.clean.waveform, batch.clean.embeddings, FRAMES)
        loss = sum(weight * term(Step(batch, student, teacher)) for term, weight in self.losses)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        pairs = [
            (mean, own)
            for mean, own in zip(self.teacher.parameters(), self.student.parameters(), strict=True)
            if own.requires_grad
        ]
        if self.usual:
            for mean, own in pairs:
                mean.mul_(0.99).add_(own.detach(), alpha=0.01)
        else:
            torch._foreach_lerp_([mean for mean, _ in pairs], [own.detach() for _, own in pairs], 0.01)
        return float(loss.detach())


def frozen(folder):
    """A step of the frozen stage, features read from disk."""
    detector, stage = page_stage("frozen")
    size = sum(stage["sources"].values())
    dim = build_detector(detector, CLASSES).encoders["mobilenet"].dim
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(STORED, FRAMES, dim)).astype(np.float16)
    clips = [Clip(f"{k:05d}", "", 10.0, "", "weak") for k in range(STORED)]
    write_shard(folder / "weak-0.npy", clips, embeddings, 25.0)
    with h5py.File(folder / "features.h5", "w") as file:
        file.create_dataset("features", data=embeddings.astype(np.float32))
    cache = Cache([folder / "weak-0.npy"])
    chosen = rng.choice(STORED, size, replace=False)
    runs = {usual: Run(detector, stage, usual) for usual in (False, True)}

    def ours():
        read = torch.from_numpy(cache.read([clips[k].id for k in chosen]))
        return runs[False](batch_of(stage, None, {"mobilenet": read}))

    def usual():
        with h5py.File(folder / "features.h5") as file:
            read = torch.from_numpy(np.stack([file["features"][k] for k in chosen]))
        return runs[True](batch_of(stage, None, {"mobilenet": read}))

    return {"frozen stage, from the cache": ours, "the usual way": usual}, size


def finetune():
    """A step of the fine-tuning stage, from waveforms."""
    detector, stage = page_stage("finetune")
    size = sum(stage["sources"].values())
    waveform = 0.01 * torch.randn(size, 320000, generator=torch.Generator().manual_seed(0))
    batch = batch_of(stage, waveform, {})
    runs = {usual: Run(detector, stage, usual) for usual in (False, True)}
    return {"fine-tuning, from waveforms": lambda: runs[False](batch), "the usual way": lambda: runs[True](batch)}, size


def close(one, other):
    """Losses agree to float precision."""
    return abs(one - other) <= 1e-4 * abs(one)


def main():
    with tempfile.TemporaryDirectory() as folder:
        stages = [frozen(Path(folder)), finetune()]
        tables = [common.table(common.compare(ways, close, items=size), "clips") for ways, size in stages]
        keep_pages()  # as `sedflow train` does; it is the whole process's, so the peers come first
        for ways, size in stages:
            ours, step = next(iter(ways.items()))
            tables.append(common.table(common.compare({f"{ours}, freed pages kept": step}, close, items=size), "clips"))
    sections = [
        "One step of the esc10 page: student forward and backward, teacher forward, both losses, update, EMA.",
        common.surroundings("torch", "numpy", "h5py"),
        *tables,
    ]
    common.write("training", "Training steps", sections)


if __name__ == "__main__":
    main()
