"""The only LightningModule: weighted losses, an EMA teacher, and validation through the scores users get."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping

import lightning
import numpy as np
import torch
from torch import nn

from sedflow import augment, plugins
from sedflow.dataset import Batch, ClipSet, Inputs, TrainingBatches
from sedflow.detector import Detector, Prediction
from sedflow.inference import WindowScores
from sedflow.optimization import build_optimizer, learning_rate_factor, ramp
from sedflow.sampling import stable_number
from sedflow.scores import Scores

Judge = Callable[[Mapping[str, Scores]], dict[str, float]]


class TrainingStopped(ValueError):
    """Training cannot go on; the message names the step, the sources and the clips."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What a loss sees: the batch as the student read it, and both predictions."""

    batch: Batch
    student: Prediction
    teacher: Prediction | None


class Learner(lightning.LightningModule):
    """Trains a detector on batches of named sources.

    Parameters
    ----------
    student : Detector
    stage : dict    see `sedflow.params.Stage`
    clips : ClipSet    clips of all sources and of validation
    judge : callable    validation scores → metrics, ``monitor`` among them: the larger, the better
    seed : int
    teacher : Detector, optional    where the teacher starts; a copy of the student if unset
    """

    def __init__(
        self, student: Detector, stage: dict, clips: ClipSet, judge: Judge, seed: int, teacher: Detector | None = None
    ):
        super().__init__()
        self.student = student
        self.stage, self.clips, self.judge, self.seed = stage, clips, judge, seed
        self.teacher = None
        if stage["teacher"] is not None:
            self.teacher = copy.deepcopy(student) if teacher is None else teacher
            self.teacher.requires_grad_(False)
            self._share_frozen_encoders()
        self.losses = [(spec["name"], build_loss(spec), spec) for spec in stage["losses"]]
        between_validations = stage["validate_every"] * stage["accumulate"]
        self.batches = TrainingBatches(clips, stage["sources"], seed, stage["sampling"], between_validations)
        self.history: list[dict] = []
        self._running: dict[str, list[float]] = {}

    def _share_frozen_encoders(self) -> None:
        """A frozen encoder is the same in both networks: keep it once."""
        for name in self.student.frozen:
            self.teacher.encoders[name] = self.student.encoders[name]
        self.teacher.frozen = set(self.student.frozen)

    @property
    def networks(self) -> dict[str, Detector]:
        """The networks this run makes, by name."""
        return {"student": self.student} | ({"teacher": self.teacher} if self.teacher is not None else {})

    def train(self, mode: bool = True):
        """Switch to training; what the page holds still stays still."""
        super().train(mode)
        if self.teacher is not None and self.stage["teacher"]["mode"] == "eval":
            self.teacher.eval()
        if mode and self.stage["fixed_batchnorm"]:
            for network in self.networks.values():
                for part in network.encoders.modules():
                    if isinstance(part, nn.modules.batchnorm._BatchNorm):
                        part.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One step: augment, predict with both networks, sum the weighted losses."""
        step = self.global_step
        # every step draws from its own seed, so a resumed run needs no generator states
        torch.manual_seed(stable_number(f"{self.seed} {step} {self.global_rank}"))
        rng = np.random.default_rng([self.seed, step, self.global_rank])
        for spec in self.stage["augment"]:
            settings = {key: value for key, value in spec.items() if key != "name"}
            batch = getattr(augment, spec["name"])(batch, rng, **settings)
        student = self._predict(self.student, batch.inputs, batch)
        # a loss would refuse such numbers too, but with its own words
        self._refuse_nan("the student's score", float(student.strong_logits.detach().sum()), batch)
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = self._predict(self.teacher, batch.clean, batch)
        total = student.weak.sum() * 0.0
        for name, loss, spec in self.losses:
            weight = spec.get("weight", 1.0) * ramp(step + 1, spec.get("ramp_steps", 0))
            term = loss(Step(batch, student, teacher))
            self._note(name, term, batch)
            total = total + weight * term
        self._note("loss", total, batch)
        return total

    def _predict(self, network: Detector, inputs: Inputs, batch: Batch) -> Prediction:
        return network(inputs.waveform, inputs.embeddings, batch.strong.shape[1], batch.valid)

    def _refuse_nan(self, what: str, number: float, batch: Batch) -> None:
        if not np.isfinite(number):
            raise TrainingStopped(
                f"step {self.global_step}: {what} is {number}. Sources {sorted(set(batch.sources))}, clips "
                f"{list(batch.clips)}. The last good checkpoint is kept; lower the learning rate or look at these clips"
            )

    def _note(self, name: str, value: torch.Tensor, batch: Batch) -> None:
        number = float(value.detach())
        self._refuse_nan(f"the loss {name!r}", number, batch)
        self._running.setdefault(f"train/{name}", []).append(number)
        self.log(f"train/{name}", number, prog_bar=name == "loss", batch_size=len(batch))

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        """Move the teacher: θ_t ← a·θ_t + (1 − a)·θ_s over parameters; BatchNorm buffers are left alone."""
        if self.teacher is None:
            return
        settings = self.stage["teacher"]
        decay = min(1 - 1 / (self.global_step + 1), settings["decay"]) if settings["ramped"] else settings["decay"]
        pairs = [
            (mean, own)
            for mean, own in zip(self.teacher.parameters(), self.student.parameters(), strict=True)
            if own.requires_grad
        ]
        torch._foreach_lerp_([mean for mean, _ in pairs], [own.detach() for _, own in pairs], 1 - decay)

    def on_validation_epoch_start(self) -> None:
        """Begin a new collection of validation scores."""
        self._collected = {
            name: WindowScores(network.grid, self.clips.classes) for name, network in self.networks.items()
        }

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score validation clips with both networks."""
        for name, network in self.networks.items():
            strong = self._predict(network, batch.inputs, batch).strong.cpu().numpy()
            for clip, values in zip(batch.clips, strong, strict=True):
                self._collected[name].add(clip, self.clips.clips[clip].seconds, 0, values)

    def on_validation_epoch_end(self) -> None:
        """Judge the scores and write a line of the learning curve."""
        row: dict[str, float] = {"step": self.global_step}
        row |= {key: float(np.mean(values)) for key, values in sorted(self._running.items())}
        row |= {f"lr/{group['name']}": group["lr"] for group in self.optimizers().param_groups[:1]}
        self._running = {}
        monitors = []
        for name, collected in self._collected.items():
            metrics = self.judge(collected.scores())
            monitors.append(metrics["monitor"])
            row |= {f"validation/{name}/{key}": value for key, value in metrics.items() if key != "monitor"}
        row["validation/monitor"] = max(monitors)
        self.history.append(row)
        self.log_dict({key: value for key, value in row.items() if key.startswith("validation/")}, batch_size=1)
        self.log("monitor", row["validation/monitor"], prog_bar=True, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep the learning curve with the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Take the learning curve up again."""
        self.history = checkpoint["history"]

    def configure_optimizers(self):
        """The page's optimiser, its schedule counted in optimiser steps."""
        optimizer = build_optimizer(self.student, self.stage["optimizer"])
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.stage["steps"], self.stage["optimizer"])
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self):
        """Batches from the current step up to the next validation."""
        steps = range(self.global_step, self.global_step + self.stage["validate_every"])
        return self._loader(self.batches, steps)

    def val_dataloader(self):
        """Validation clips in order of id."""
        ids = self.clips.of_source("validation")
        size = max(1, sum(self.stage["sources"].values()))
        parts = [ids[start : start + size] for start in range(0, len(ids), size)]
        return self._loader(_Parts(self.clips, parts), range(len(parts)))

    def _loader(self, dataset, order: Iterable[int]):
        workers = self.stage["workers"]
        return torch.utils.data.DataLoader(
            dataset, batch_size=None, sampler=list(order), num_workers=workers, prefetch_factor=2 if workers else None
        )

    def transfer_batch_to_device(self, batch: Batch, device, dataloader_idx: int) -> Batch:
        """Move tensors; names stay."""
        return move(batch, device)


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


class _Parts(torch.utils.data.Dataset):
    """Batches of clips given by their ids."""

    def __init__(self, clips: ClipSet, parts: list[list[str]]):
        self.clips, self.parts = clips, parts

    def __getitem__(self, number: int) -> Batch:
        return self.clips.batch(self.parts[number])


def build_loss(spec: dict):
    """A loss from its entry on a page; its weight and its ramp are the learner's business."""
    own = {key: value for key, value in spec.items() if key not in ("weight", "ramp_steps")}
    return plugins.build("losses", own)
