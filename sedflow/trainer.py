"""The Trainer of a run: as many processes as the page says, checkpoints that survive a kill, time spent waiting."""

from __future__ import annotations

import logging
import os
import time
import warnings
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from sedflow.batch_statistics import SharedStatistics

LAST = "last.ckpt"
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}


def build_trainer(stage: dict, work: Path) -> lightning.Trainer:
    """A Trainer whose epochs are the stretches between validations, so that it can resume exactly."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    meant = ("does not have many workers", "exists and is not empty", "in eval mode", "smaller than the logging")
    for expected in meant:
        warnings.filterwarnings("ignore", message=f".*{expected}.*")
    keep_best = MovableCheckpoints(
        work / "top",
        filename="{step}",
        monitor="monitor",
        mode="max",
        save_top_k=stage["keep_top"],
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    keep_last = MovableCheckpoints(
        work, filename=LAST.removesuffix(".ckpt"), save_on_train_epoch_end=True, enable_version_counter=False
    )
    return lightning.Trainer(
        max_steps=stage["steps"],
        devices=stage["processes"],
        strategy="ddp" if stage["processes"] > 1 else "auto",
        sync_batchnorm=stage["processes"] > 1 and torch.cuda.is_available(),
        precision=PRECISIONS.get(stage["precision"]),
        accumulate_grad_batches=stage["accumulate"],
        gradient_clip_val=stage["optimizer"]["clip_norm"],
        # some gradients (adaptive pooling) have no deterministic form on a GPU
        deterministic="warn" if torch.cuda.is_available() else True,
        callbacks=[TQDMProgressBar(refresh_rate=10), Waiting(), keep_best, keep_last],
        logger=[CSVLogger(work, name="csv", version=""), TensorBoardLogger(work, name="tensorboard", version="")],
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        plugins=[AtomicCheckpoints(), *special_plugins(stage)],
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def special_plugins(stage: dict) -> list:
    """What Lightning lacks: fp16 on a processor, and batch norms there that see the parts of all processes."""
    half = [half_precision()] if stage["precision"] == "fp16" else []
    shared = [SharedStatistics()] if stage["processes"] > 1 and not torch.cuda.is_available() else []
    return half + shared


def half_precision() -> MixedPrecision:
    """fp16 with scaled gradients, on a processor too, where Lightning would take bf16 in its place."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return MixedPrecision("16-mixed", device, torch.amp.GradScaler(device))


class Waiting(Callback):
    """How much of a step's time is waiting for its batch: in the work folder's log, and printed at each validation.

    It is not part of the learning curve, which is the same each time a run is repeated.
    """

    def __init__(self):
        self._begin()

    def _begin(self) -> None:
        self._waited = self._worked = 0.0
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer, learner) -> None:
        """Begin to count."""
        self._begin()

    def on_train_batch_start(self, trainer, learner, batch, batch_idx) -> None:
        """The batch is here."""
        self._last_wait = self._lap()
        self._waited += self._last_wait

    def on_train_batch_end(self, trainer, learner, outputs, batch, batch_idx) -> None:
        """The batch is done with."""
        worked = self._lap()
        self._worked += worked
        learner.log("train/waiting", self._last_wait / (self._last_wait + worked), batch_size=1)

    def on_train_epoch_end(self, trainer, learner) -> None:
        """Say it; a run that is taken up again ends an epoch of which it has seen nothing."""
        if self._worked:
            self._say(trainer.global_step, self._waited / (self._waited + self._worked))

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._since = now - self._since, now
        return lap

    @rank_zero_only
    def _say(self, step: int, share: float) -> None:
        hint = "; raise `workers`" if share > 0.05 else ""
        print(f"\nstep {step}: {share:.1%} of the time was spent waiting for data{hint}", flush=True)


class MovableCheckpoints(ModelCheckpoint):
    """Checkpoints that are still found in a work folder that was moved: their state names files by full paths.

    Lightning forgets in another place what was best before, and looks for the best one in the old place.
    """

    def load_state_dict(self, state_dict):
        """Take up a state, every file in it where the folder is now; a kill may have left others, which go."""
        here = lambda path: str(path).replace(state_dict["dirpath"], self.dirpath, 1)  # noqa: E731
        paths = ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best})
        known = {Path(path).name for path in (*best, *moved.values())}
        for path in (path for pattern in ("*.ckpt", "*.part") for path in Path(self.dirpath).glob(pattern)):
            if path.name not in known:
                path.unlink(missing_ok=True)


class AtomicCheckpoints(CheckpointIO):
    """Checkpoints for resuming: written beside their name, synced, read back, then moved; the old one stays until then.

    One that fell out of the best stays until the state that knows of it is written: a run that is killed in between
    goes on from a state that still counts on it.

    Lightning's own writer goes through ``$TMPDIR`` (a copy, not a move, across devices) and swallows PermissionError.
    """

    def __init__(self):
        self._fallen: list[Path] = []

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Write a checkpoint; any error is raised and leaves the former file as it was."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        with unfinished.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        torch.load(unfinished, map_location="cpu", weights_only=True)
        unfinished.replace(path)
        if path.name == LAST:
            for fallen in self._fallen:
                fallen.unlink(missing_ok=True)
            self._fallen.clear()

    def load_checkpoint(self, path, map_location=None, weights_only=True):
        """Read a checkpoint without running code from it."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path):
        """Delete a checkpoint that fell out of the best, once the next ``last.ckpt`` is there."""
        self._fallen.append(Path(path))
