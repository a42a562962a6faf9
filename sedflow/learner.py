"""The only LightningModule: weighted losses, an EMA teacher, and validation through the scores users get."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping

import lightning
import numpy as np
import torch
from torch import nn

from sedflow.augment import DOMAINS
from sedflow.batch_statistics import warn_of_parts
from sedflow.dataset import Batch, ClipSet, Inputs
from sedflow.detector import Detector
from sedflow.inference import WindowScores
from sedflow.loading import Parts, Share, TrainingBatches, loader, move, sources_beneath
from sedflow.monitor import clip_errors, monitored
from sedflow.optimization import build_optimizer, learning_rate_factor, ramp, teacher_decay, update_teacher
from sedflow.pooling import Prediction
from sedflow.sampling import stable_number
from sedflow.scores import Scores
from sedflow.stage_plugins import build_augmentation, build_losses, check_listeners

log = logging.getLogger(__name__)

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Judge = Callable[[Mapping[str, Scores]], dict[str, float]]


class TrainingStopped(ValueError):
    """Training cannot go on; the message names the step, the sources and the clips."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What a loss sees: the batch as the student read it, and both predictions.

    ``processes`` share the batch; networks compute in ``half``, or in float32 as losses do.
    """

    batch: Batch
    student: Prediction
    teacher: Prediction | None
    processes: int = 1
    half: torch.dtype | None = None


class Learner(lightning.LightningModule):
    """Trains a detector on batches of named sources.

    Parameters
    ----------
    student : Detector
    stage : dict    see `sedflow.params.Stage`
    clips : ClipSet    clips of all sources and of validation
    judge : callable    validation scores → metrics, those that the stage monitors among them
    seed : int
    teacher : Detector, optional    initial teacher; a copy of the student if unset
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
            self.student.share_frozen(self.teacher)
        self.losses = build_losses(stage["losses"])
        check_listeners(self.losses, list(clips.classes), clips.sample_rate, stage["augment"])
        page = {"clip_seconds": clips.clip_seconds, "sample_rate": clips.sample_rate}
        self.augmentations = [build_augmentation(spec, page) for spec in stage["augment"]]
        between_validations = stage["validate_every"] * stage["accumulate"]
        drawn = (stage["sampling"], between_validations, sources_beneath(stage["augment"], clips), stage["epoch_clips"])
        self.batches = TrainingBatches(clips, stage["sources"], seed, *drawn)
        self.history: list[dict] = []
        self._running: dict[str, list[float]] = {}
        self._last: tuple[tuple[str, ...], ...] = ((), ())  # sources and clips of the step
        self.scaler = None
        self.train()  # a detector that was loaded is in evaluation mode, and Lightning leaves modes as they are

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
        """One batch: augment, predict with both networks, sum the weighted losses."""
        batch = self.augmented(batch, self.random_numbers(batch_idx))
        student = self._predict(self.student, batch.inputs, batch, batch.known)
        # a loss would refuse such numbers too, but with its own words
        self._refuse_nan("the student's score", student.strong_logits, batch)
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = self._predict(self.teacher, batch.clean, batch.unmixed, batch.unmixed.known)
        # both heads take part whatever the losses are: processes wait for every parameter's gradient
        total = (student.weak.sum() + student.strong_logits.sum()) * 0.0
        step = Step(batch, student, teacher, self.stage["processes"], _HALVES.get(self.stage["precision"]))
        for label, loss, spec in self.losses:
            with torch.autocast(self.device.type, enabled=False):
                term = loss(step)
            self._note(label, term, batch)
            total = total + self.loss_weight(spec) * term
        self._note("loss", total, batch)
        if batch_idx % self.stage["accumulate"] == 0:
            self._last = ((), ())
        self._last = tuple(before + now for before, now in zip(self._last, (batch.sources, batch.clips), strict=True))
        return total

    def random_numbers(self, batch_idx: int) -> np.random.Generator:
        """Seed torch, and return what augmentations draw from: a batch's own seeds, so that resuming needs no states.

        Processes that share a batch draw the same for it (whether it is mixed, how, and by how much), and the same for
        the k-th clip of each; what torch draws (dropout) is each process' own.
        """
        number = self.global_step * self.stage["accumulate"] + batch_idx % self.stage["accumulate"]
        torch.manual_seed(stable_number(f"{self.seed} {number} {self.global_rank}"))
        return np.random.default_rng([self.seed, number, 0])

    def augmented(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """The page's augmentations in order; front ends are opened as far as each of them needs."""
        for function, domain, settings in self.augmentations:
            if domain in DOMAINS[1:]:
                same = batch.clean is batch.inputs
                needed = (domain, settings.get("encoders"))
                inputs = self.student.opened(batch.inputs, *needed)
                clean = inputs if same else self.student.opened(batch.clean, *needed)
                batch = batch.replace(inputs=inputs, clean=clean)
            batch = function(batch, rng, **settings)
        return batch

    def loss_weight(self, spec: dict) -> float:
        """Weight of a loss at this step: it may be ramped."""
        kind, limit = spec.get("ramp", "exponential"), spec.get("ramp_limit", 1.0)
        return spec.get("weight", 1.0) * ramp(self.global_step + 1, spec.get("ramp_steps", 0), kind, limit)

    def _predict(self, network: Detector, inputs: Inputs, batch: Batch, known=None) -> Prediction:
        return network.read(inputs, batch.strong.shape[1], batch.valid, known)

    def _refuse_nan(self, what: str, values: torch.Tensor, batch: Batch) -> None:
        number = float(values.detach().sum())
        if np.isfinite(number):
            return
        rows = range(len(batch))
        if values.dim():
            rows = [row for row in rows if not bool(values[row].isfinite().all())] or rows
        self._stop(f"{what} is {number}", [batch.sources[row] for row in rows], [batch.clips[row] for row in rows])

    def _stop(self, what: str, sources, clips) -> None:
        read = f"Sources {sorted(set(sources))}, clips {list(clips)}" if clips else "No batch was read before"
        raise TrainingStopped(
            f"step {self.global_step}: {what}. {read}. The last good checkpoint is kept; lower the learning rate or "
            f"check {'these clips' if clips else 'the weights that training began with'}"
        )

    def _note(self, name: str, value: torch.Tensor, batch: Batch) -> None:
        self._refuse_nan(f"the loss {name!r}", value, batch)
        number = float(value.detach())
        self._running.setdefault(f"train/{name}", []).append(number)
        self.log(f"train/{name}", number, prog_bar=name == "loss", batch_size=len(batch))

    def on_before_zero_grad(self, optimizer) -> None:
        """Move the teacher, once per optimiser step.

        This happens between the forward pass of a step and its update: the teacher follows the student as the previous
        step left it. Source: ATST-SED and the DCASE baselines.
        """
        if self.teacher is not None:
            update_teacher(self.teacher, self.student, teacher_decay(self.global_step, self.stage["teacher"]))

    def on_before_optimizer_step(self, optimizer) -> None:
        """Stop before a gradient that is not finite reaches the weights.

        In fp16 gradients are scaled up and may overflow: then the scaler skips the step and halves its scale. Weights
        stay, while schedules and the teacher go on as if the step had been made; the learning curve records in how
        many steps that happened. Gradients that overflow without being scaled up are not finite for another reason.
        """
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        finite = bool(nn.utils.get_total_norm(gradients).isfinite())
        if self.scaler is not None:
            self._running.setdefault("train/skipped_steps", []).append(float(not finite))
        if not finite and (self.scaler is None or self.scaler.get_scale() <= 1):
            self._stop("the gradient is not finite", *self._last)
        if not finite:
            scale = self.scaler.get_scale()
            log.warning("step %d is skipped: its gradient, scaled by %g, overflows fp16", self.global_step, scale)

    def on_train_start(self) -> None:
        """Check whether gradients are scaled, as fp16 needs."""
        self.scaler = getattr(self.trainer.precision_plugin, "scaler", None)

    def on_fit_start(self) -> None:
        """Say what accumulation and processes do to batch statistics."""
        warn_of_parts(self.student, self.stage)

    def on_validation_epoch_start(self) -> None:
        """Begin a new collection of validation scores; weights that are not finite must not become a checkpoint."""
        weights = [p for p in self.student.parameters() if p.requires_grad]
        if not bool(nn.utils.get_total_norm(weights).isfinite()):
            self._stop("the weights are not finite", *self._last)
        self._collected = {name: WindowScores(net.grid, self.clips.classes) for name, net in self.networks.items()}
        self._errors: dict[str, dict[str, float]] = {name: {} for name in self.networks}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score validation clips with both networks."""
        for name, network in self.networks.items():
            prediction = self._predict(network, batch.inputs, batch)
            self._errors[name] |= zip(batch.clips, clip_errors(prediction.strong_logits, batch), strict=True)
            strong = prediction.strong.cpu().numpy()
            for clip, values in zip(batch.clips, strong, strict=True):
                self._collected[name].add(clip, self.clips.clips[clip].seconds, 0, values)

    def on_validation_epoch_end(self) -> None:
        """Evaluate the scores and write a line of the learning curve."""
        row: dict[str, float] = {"step": self.global_step}
        row |= {key: self._over_processes(float(np.mean(values))) for key, values in sorted(self._running.items())}
        row |= {f"lr/{group['name']}": group["lr"] for group in self.optimizers().param_groups[:1]}
        self._running = {}
        metrics = {}
        for name, collected in self._collected.items():
            errors = list(self._joined(self._errors[name]).values())
            metrics[name] = self.judge(self._joined(collected.scores())) | {"bce": float(np.mean(errors))}
            row |= {f"validation/{name}/{key}": value for key, value in metrics[name].items()}
            metrics[name]["step"] = self.global_step
        row["validation/monitor"] = monitored(self.stage["monitor"], metrics)
        self.history.append(row)
        self.log_dict({key: value for key, value in row.items() if key.startswith("validation/")}, batch_size=1)
        self.log("monitor", row["validation/monitor"], prog_bar=True, batch_size=1)

    def _over_processes(self, value: float) -> float:
        """Mean of a number over all processes."""
        if self.trainer.world_size == 1:
            return value
        return float(self.all_gather(torch.tensor(value, dtype=torch.float64, device=self.device)).mean())

    def _joined(self, scores: dict) -> dict:
        """What all processes know of their clips, in order of clip."""
        if self.trainer.world_size == 1:
            return scores
        parts: list = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, scores)
        joined = {clip: of_clip for part in parts for clip, of_clip in part.items()}
        return {clip: joined[clip] for clip in sorted(joined)}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Store the learning curve with the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restore the learning curve."""
        self.history = checkpoint["history"]

    def configure_optimizers(self):
        """The page's optimiser, its schedule counted in optimiser steps."""
        optimizer = build_optimizer(self.student, self.stage["optimizer"])
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.stage["steps"], self.stage["optimizer"])
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self):
        """The share of this process in the batches from the current step up to the next validation."""
        count = self.stage["accumulate"]
        numbers = range(count * self.global_step, count * (self.global_step + self.stage["validate_every"]))
        return loader(Share(self.batches, self.global_rank, self.trainer.world_size), numbers, self.stage["workers"])

    def val_dataloader(self):
        """The share of this process in the validation clips, in order of id."""
        ids = self.clips.of_source("validation")[self.global_rank :: self.trainer.world_size]
        size = max(1, sum(self.stage["sources"].values()))
        parts = [ids[start : start + size] for start in range(0, len(ids), size)]
        return loader(Parts(self.clips, parts), range(len(parts)), self.stage["workers"])

    def transfer_batch_to_device(self, batch: Batch, device, dataloader_idx: int) -> Batch:
        """Move tensors; names stay."""
        return move(batch, device)
