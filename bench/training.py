"""Training steps of four stages: clips per second, and against the step written the usual way.

The usual way: the same parameters, batch, losses and optimiser, but features from HDF5 in float32, every operation
eager and in float32, maps with the channels first (see usual.py), parameters averaged one by one into the teacher, and
memory handled as the C library does by itself. The ratio is that of whole steps.
"""

import argparse
import atexit
import copy
import shutil
import tempfile
from pathlib import Path

import common
import h5py
import numpy as np
import torch
from own_process import OwnProcess
from usual import write_usually

from sedflow.dataset import Batch, Inputs
from sedflow.detector import build_detector
from sedflow.events import Clip
from sedflow.features import Cache, write_shard
from sedflow.learner import Step, build_losses
from sedflow.optimization import build_optimizer
from sedflow.systems import read_system

STORED, CLASSES, SECONDS = 128, 10, 10.0
WAYS = {"sedflow, float32": "32", "sedflow, bfloat16": "bf16", "the usual way": "usual"}
KINDS = {"real_strong": "strong", "synthetic_strong": "strong", "weak": "weak", "unlabeled": "none"}


def page_stage(page, name, divisor, dropout):
    """Detector and stage of a page, batches divided, with random weights, and with dropout or without."""
    system = read_system(page).model_dump(mode="json")
    stage = system["stages"][name]
    stage["sources"] = {source: share // divisor for source, share in stage["sources"].items()}
    detector = system["detector"]
    for part in (detector, *detector["encoders"]):
        part.pop("weights", None)
        if "dropout" in part and not dropout:
            part["dropout"] = 0.0
    return detector, stage


def batch_of(stage, waveform, embeddings, detector):
    """A batch with the page's sources and random targets."""
    sources = tuple(source for source, share in stage["sources"].items() for _ in range(share))
    generator = torch.Generator().manual_seed(0)
    inputs, frames = Inputs(waveform, embeddings), detector.grid.frames(SECONDS)
    return Batch(
        inputs=inputs,
        clean=inputs,
        strong=(torch.rand(len(sources), frames, CLASSES, generator=generator) > 0.9).float(),
        weak=(torch.rand(len(sources), CLASSES, generator=generator) > 0.7).float(),
        valid=torch.ones(len(sources), frames, dtype=torch.bool),
        sources=sources,
        kinds=tuple(KINDS[source] for source in sources),
        clips=tuple(map(str, range(len(sources)))),
    )


class Run:
    """One network with its teacher, losses and optimiser; a call is one step and gives its loss."""

    def __init__(self, detector, stage, precision):
        self.usual, self.half = precision == "usual", precision == "bf16"
        torch.manual_seed(0)
        self.student = build_detector(detector, CLASSES)
        self.student.freeze(stage["freeze"])
        self.student.train()
        if stage["fixed_batchnorm"]:
            for part in self.student.encoders.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.eval()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher.train(stage["teacher"]["mode"] == "train")
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


def frozen(precision, dropout, page, divisor):
    """A step of a frozen stage: features of the frozen encoder read from disk, waveforms for the other one."""
    detector, stage = page_stage(page, "frozen", divisor, dropout)
    run = Run(detector, stage, precision)
    (name,) = stage["freeze"]
    encoder = run.student.encoders[name]
    rng = np.random.default_rng(0)
    shape = STORED, round(SECONDS * encoder.frame_rate), encoder.dim
    embeddings = rng.normal(size=shape).astype(np.float16)
    clips = [Clip(f"{k:05d}", "", SECONDS, "", "weak") for k in range(STORED)]
    chosen = rng.choice(STORED, sum(stage["sources"].values()), replace=False)
    folder = Path(tempfile.mkdtemp(prefix="sedflow-bench-"))
    atexit.register(shutil.rmtree, folder)
    if precision == "usual":
        with h5py.File(folder / "features.h5", "w") as file:
            file.create_dataset("features", data=embeddings.astype(np.float32))
    else:
        write_shard(folder / "weak-0.npy", clips, embeddings, encoder.frame_rate)
        cache = Cache([folder / "weak-0.npy"])

    def read():
        if precision != "usual":
            return cache.read([clips[k].id for k in chosen])
        with h5py.File(folder / "features.h5") as file:
            return np.stack([file["features"][k] for k in chosen])

    waveform = noise(run.student, len(chosen)) if len(run.student.encoders) > 1 else None
    return lambda: run(batch_of(stage, waveform, {name: torch.from_numpy(read())}, run.student))


def finetune(precision, dropout, page, divisor):
    """A step of a fine-tuning stage, from waveforms."""
    detector, stage = page_stage(page, "finetune", divisor, dropout)
    run = Run(detector, stage, precision)
    batch = batch_of(stage, noise(run.student, sum(stage["sources"].values())), {}, run.student)
    return lambda: run(batch)


def noise(detector, clips):
    generator = torch.Generator().manual_seed(0)
    return 0.01 * torch.randn(clips, int(SECONDS * detector.sample_rate), generator=generator)


STAGES = {
    "esc10_frozen": ("esc10, frozen stage: cached mn04, BiGRU", 32, frozen, "esc10", 1),
    "atst_frozen": ("atst_sed, frozen stage: CNN, cached ATST-Frame, BiGRU", 11, frozen, "atst_sed", 8),
    "esc10_finetune": ("esc10, fine-tuning mn04", 16, finetune, "esc10", 1),
    "atst_finetune": ("atst_sed, fine-tuning ATST-Frame base", 6, finetune, "atst_sed", 24),
}


def steps(stage, precision, dropout):
    """A function that takes one step of a stage and returns its loss."""
    _, _, build, page, divisor = STAGES[stage]
    return build(precision, dropout, page, divisor)


def in_own_processes(stage, dropout):
    """Every way of taking steps; ours handle memory as `sedflow train` does."""
    return {
        name: OwnProcess(steps, stage, precision, dropout, keeps_pages=precision != "usual")
        for name, precision in WAYS.items()
    }


def section(stage):
    """One stage's tables: ours in float32 and in bfloat16, each against the usual way."""
    title, clips, *_ = STAGES[stage]
    exact = in_own_processes(stage, dropout=False)
    losses = {name: worker() for name, worker in exact.items()}
    for worker in exact.values():
        worker.end()
    # bfloat16 is among them
    if max(losses.values()) - min(losses.values()) > 1e-2 * max(losses.values()):
        raise common.UnequalError(f"{stage}: one step, and these losses: {losses}")
    ways = in_own_processes(stage, dropout=True)
    ours, half, usual = common.compare(ways, lambda mine, other: True, items=clips)
    for worker in ways.values():
        worker.end()
    return [f"## {title}, {clips} clips", common.table([ours, usual], "clips"), common.table([half, usual], "clips")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    sections = [
        "One step: student forward and backward, teacher forward, both losses, update, moving average; no "
        "augmentation. Every way gives the same loss without dropout before it is timed with the page's dropout. Each "
        "way runs in a process of its own.",
        common.surroundings("torch", "numpy", "h5py"),
    ]
    for stage in arguments.only:
        sections += section(stage)
    common.write("training", "Training steps", sections)


if __name__ == "__main__":
    main()
