"""Training steps of three stages: clips per second, and against the step written the usual way.

The usual way: the same parameters, batch, losses and optimiser, but features from HDF5 in float32, every operation
eager and in float32, maps with the channels first (see usual.py), parameters averaged one by one into the teacher, and
memory handled as the C library does by itself.
All ways give the same loss; the ratio is that of whole steps.
"""

import argparse
import atexit
import contextlib
import copy
import functools
import multiprocessing
import shutil
import tempfile
from pathlib import Path

import common
import h5py
import numpy as np
import torch
from usual import write_usually

from sedflow.dataset import Batch, Inputs
from sedflow.detector import build_detector
from sedflow.events import Clip
from sedflow.features import Cache, write_shard
from sedflow.learner import Step, build_losses
from sedflow.memory import keep_pages
from sedflow.optimization import build_optimizer
from sedflow.systems import read_system

STORED = 128
WAYS = {"sedflow, float32": "32", "sedflow, bfloat16": "bf16", "the usual way": "usual"}
SPAWN = multiprocessing.get_context("spawn")
KINDS = {"real_strong": "strong", "synthetic_strong": "strong", "weak": "weak", "unlabeled": "none"}


def page_stage(page, name, divisor=1):
    """Detector and stage of a page, batches divided; weights are random, and nothing is left to chance."""
    system = read_system(page).model_dump(mode="json")
    stage = system["stages"][name]
    stage["sources"] = {source: share // divisor for source, share in stage["sources"].items()}
    detector = system["detector"] | {"dropout": 0.0}
    for encoder in detector["encoders"]:
        encoder.pop("weights", None)
        if "dropout" in encoder:
            encoder["dropout"] = 0.0
    return detector, stage


def batch_of(stage, waveform, embeddings, frames, classes):
    """A batch with the page's sources and random targets."""
    sources = tuple(source for source, share in stage["sources"].items() for _ in range(share))
    generator = torch.Generator().manual_seed(0)
    inputs = Inputs(waveform, embeddings)
    return Batch(
        inputs=inputs,
        clean=inputs,
        strong=(torch.rand(len(sources), frames, classes, generator=generator) > 0.9).float(),
        weak=(torch.rand(len(sources), classes, generator=generator) > 0.7).float(),
        valid=torch.ones(len(sources), frames, dtype=torch.bool),
        sources=sources,
        kinds=tuple(KINDS[source] for source in sources),
        clips=tuple(map(str, range(len(sources)))),
    )


class Run:
    """One network with its teacher, losses and optimiser; a call is one step and gives its loss."""

    def __init__(self, detector, stage, classes, precision="32"):
        self.usual, self.half = precision == "usual", precision == "bf16"
        torch.manual_seed(0)
        self.student = build_detector(detector, classes)
        self.student.freeze(stage["freeze"])
        self.student.train()
        if stage["fixed_batchnorm"]:
            for part in self.student.encoders.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.eval()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        if self.usual:
            write_usually(self.student)
            write_usually(self.teacher)
        self.losses = build_losses(stage["losses"])
        self.optimizer = build_optimizer(self.student, stage["optimizer"])

    def __call__(self, batch):
        """One step; returns its loss."""
        frames = batch.valid.shape[1]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            student = self.student(batch.inputs.waveform, batch.inputs.embeddings, frames)
            with torch.no_grad():
                teacher = self.teacher(batch.clean.waveform, batch.clean.embeddings, frames)
        step = Step(batch, student, teacher)
        loss = sum(spec.get("weight", 1.0) * term(step) for _, term, spec in self.losses)
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


def frozen(precision):
    """A step of esc10's frozen stage, features read from disk; clips in a batch."""
    detector, stage = page_stage("esc10", "frozen")
    classes, frames, size = 7, 250, sum(stage["sources"].values())
    run = Run(detector, stage, classes, precision)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(STORED, frames, run.student.encoders["mobilenet"].dim)).astype(np.float16)
    clips = [Clip(f"{k:05d}", "", 10.0, "", "weak") for k in range(STORED)]
    chosen = rng.choice(STORED, size, replace=False)
    folder = Path(tempfile.mkdtemp(prefix="sedflow-bench-"))
    atexit.register(shutil.rmtree, folder)
    if precision == "usual":
        with h5py.File(folder / "features.h5", "w") as file:
            file.create_dataset("features", data=embeddings.astype(np.float32))
    else:
        write_shard(folder / "weak-0.npy", clips, embeddings, 25.0)
        cache = Cache([folder / "weak-0.npy"])

    def read():
        if precision != "usual":
            return cache.read([clips[k].id for k in chosen])
        with h5py.File(folder / "features.h5") as file:
            return np.stack([file["features"][k] for k in chosen])

    return lambda: run(batch_of(stage, None, {"mobilenet": torch.from_numpy(read())}, frames, classes))


def finetune(precision, page, divisor, classes):
    """A step of a fine-tuning stage, from waveforms."""
    detector, stage = page_stage(page, "finetune", divisor)
    run = Run(detector, stage, classes, precision)
    shape = sum(stage["sources"].values()), 10 * run.student.sample_rate
    waveform = 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    batch = batch_of(stage, waveform, {}, run.student.grid.frames(10.0), classes)
    return lambda: run(batch)


STAGES = {
    "frozen": ("esc10, frozen stage, from the cache", 32, frozen),
    "mobilenet": ("esc10, fine-tuning mn04", 16, functools.partial(finetune, page="esc10", divisor=1, classes=7)),
    "atst": (
        "atst_sed, fine-tuning ATST-Frame base",
        6,
        functools.partial(finetune, page="atst_sed", divisor=24, classes=10),
    ),
}


class Worker:
    """One way of taking steps in a process of its own: how memory is handled is a process' choice."""

    def __init__(self, stage, precision):
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=take_steps, args=(theirs, stage, precision), daemon=True)
        self.process.start()

    def __call__(self):
        """One step; returns its loss."""
        self.pipe.send(None)
        return self.pipe.recv()


def take_steps(pipe, stage, precision):
    """Take a step each time somebody asks."""
    if precision != "usual":
        keep_pages()  # as `sedflow train` does
    step = STAGES[stage][2](precision)
    with contextlib.suppress(EOFError):
        while True:
            pipe.recv()
            pipe.send(step())


def section(stage):
    """One stage's tables: ours in float32 and in bfloat16, each against the usual way."""
    title, clips, _ = STAGES[stage]
    ways = {name: Worker(stage, precision) for name, precision in WAYS.items()}
    ours, half, usual = common.compare(ways, close, items=clips)
    return [f"## {title}, {clips} clips", common.table([ours, usual], "clips"), common.table([half, usual], "clips")]


def close(one, other):
    """Losses agree to what bfloat16, which one of the two may be, can tell."""
    return abs(one - other) <= 1e-2 * abs(one)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    sections = [
        "One step: student forward and backward, teacher forward, both losses, update, moving average. No dropout and "
        "no augmentation, so that every way gives the same loss. Each way runs in a process of its own.",
        common.surroundings("torch", "numpy", "h5py"),
    ]
    for stage in arguments.only:
        sections += section(stage)
    common.write("training", "Training steps", sections)


if __name__ == "__main__":
    main()
