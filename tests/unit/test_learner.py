"""The learner: modes, numbers drawn, batches that are refused, accumulation."""

import copy
import dataclasses
import functools
import logging
import multiprocessing
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sedflow.augment.mixup import mixed_labels
from sedflow.batch_statistics import SharedStatistics
from sedflow.dataset import Batch, ClipSet, Inputs, Mixing
from sedflow.detector import build_detector
from sedflow.events import ClassSet, Clip
from sedflow.frames import FrameGrid
from sedflow.learner import Learner, TrainingStopped
from sedflow.losses.consistency import Consistency
from sedflow.params import Stage
from sedflow.plugins import SettingsError
from sedflow.pooling import Prediction
from sedflow.stage_plugins import check_listeners
from sedflow.train import alone_in, run_digest
from sedflow.trainer import LAST, AtomicCheckpoints, MovableCheckpoints
from sedflow.yaml_text import overlay

DETECTOR = {
    "encoders": [{"name": "cnn", "channels": [4] * 7}, {"name": "atst", "dim": 8, "depth": 1, "heads": 2}],
    "sequence": {"name": "bigru", "width": 4, "layers": 1}, "frame_rate": 15.625, "pooling": "attention",
    "dropout": 0.5, "merge_dim": None, "merge_norm": False,
}  # fmt: skip
SOURCES = {"real_strong": "strong", "weak": "weak"}


def learner_of(**changes) -> Learner:
    stage = {
        "sources": {"real_strong": 2, "weak": 1},
        "losses": [{"name": "supervised"}, {"name": "consistency", "weight": 2.0, "ramp_steps": 10}],
        "teacher": {"decay": 0.9, "mode": "eval"}, "steps": 10, "validate_every": 5,
        "optimizer": {"lr": {"head": 1e-3, "cnn": 1e-3, "atst": 1e-3}},
    }  # fmt: skip
    stage = Stage.model_validate(stage | changes).model_dump()
    clips = [Clip(f"{s}-{k}", f"{s}-{k}.flac", 1.0, f"{s}-{k}", s) for s in SOURCES for k in range(4)]
    options = {"grid": FrameGrid(15.625), "clip_seconds": 1.0, "sample_rate": 16000, "caches": {}, "root": "."}
    student = build_detector(DETECTOR, 2).eval()  # as it comes from a file
    student.freeze(stage["freeze"])
    return Learner(student, stage, ClipSet(clips, SOURCES, {}, {}, ClassSet(("a", "b")), **options), None, 1)


def batch_of() -> Batch:
    inputs = Inputs(torch.rand(3, 16000, generator=torch.Generator().manual_seed(1)) - 0.5)
    strong = torch.zeros(3, 16, 2)
    return Batch(
        inputs, inputs, strong, strong.amax(1), torch.ones(3, 16, dtype=torch.bool),
        ("real_strong", "real_strong", "weak"), ("strong", "strong", "weak"), ("one", "two", "three"),
    )  # fmt: skip


def test_a_loaded_detector_trains_in_training_mode_and_what_is_held_still_stays_still():
    learner = learner_of(freeze=["atst"], fixed_batchnorm=True)
    student = learner.student
    assert student.dropout.training and student.sequence.training and student.encoders["cnn"].training
    assert not student.encoders["atst"].training
    assert not student.encoders["cnn"].blocks[0].norm.training
    assert not learner.teacher.dropout.training
    assert learner.teacher.encoders["atst"] is student.encoders["atst"]
    learner.eval().train()
    assert student.dropout.training and not learner.teacher.dropout.training


def test_every_batch_of_a_step_draws_its_own_numbers_and_the_same_ones_again(monkeypatch):
    learner = learner_of(accumulate=3)
    drawn = {}
    for step in (0, 1):
        monkeypatch.setattr(Learner, "global_step", step)
        for batch_idx in range(6):  # batches count on to the next validation
            rng = learner.random_numbers(batch_idx)
            drawn.setdefault((step, batch_idx % 3), set()).add((float(rng.random()), float(torch.rand(()))))
    assert all(len(numbers) == 1 for numbers in drawn.values())
    assert len(set.union(*drawn.values())) == 6


def test_processes_that_share_a_batch_draw_the_same_for_it_and_drop_out_on_their_own(monkeypatch):
    learner, drawn = learner_of(), []
    monkeypatch.setattr(Learner, "global_step", 4)
    for rank in (0, 1):
        monkeypatch.setattr(Learner, "global_rank", rank)
        drawn.append((learner.random_numbers(0).random(8).tolist(), torch.rand(8).tolist()))
    (first, dropped), (second, dropped_too) = drawn
    assert first == second and dropped != dropped_too


def test_weights_of_losses_ramp_by_optimiser_steps(monkeypatch):
    learner = learner_of(accumulate=3)
    consistency = learner.losses[1][2]
    for step, weight in ((0, 2 * np.exp(-5 * 0.81)), (9, 2.0), (200, 2.0)):
        monkeypatch.setattr(Learner, "global_step", step)
        assert learner.loss_weight(consistency) == pytest.approx(weight)
    assert learner.loss_weight({"name": "x", "weight": 3.0, "ramp": "linear", "ramp_steps": 402}) == 1.5


def test_losses_are_told_how_many_processes_share_the_batch():
    learner, told = learner_of(processes=2), []
    learner.losses = [("counting", lambda step: told.append(step.processes) or step.student.weak.sum(), {})]
    learner.training_step(batch_of(), 0)
    assert told == [2]


def test_losses_of_one_name_are_told_apart():
    losses = [{"name": "supervised", "sources": ["weak"]}, {"name": "supervised"}, {"name": "consistency"}]
    labels = [label for label, _, _ in learner_of(losses=losses).losses]
    assert labels == ["supervised_0", "supervised_1", "consistency"]


def test_a_clip_that_gives_no_numbers_is_named_alone(monkeypatch):
    learner = learner_of()
    logits = torch.zeros(3, 16, 2, requires_grad=True)
    broken = torch.zeros(3, 16, 2)
    broken[1, 3, 0] = torch.nan
    scores = Prediction(logits + broken, logits.sigmoid().mean(1))
    monkeypatch.setattr(learner, "_predict", lambda *_: scores)
    message = r"step 0: the student's score is nan\. Sources \['real_strong'\], clips \['two'\]"
    with pytest.raises(TrainingStopped, match=message):
        learner.training_step(batch_of(), 0)


def test_a_gradient_that_is_no_number_stops_before_the_weights_take_it():
    learner = learner_of()
    learner.training_step(batch_of(), 0).backward()
    learner.on_before_optimizer_step(None)
    next(learner.student.parameters()).grad[0] = torch.inf
    with pytest.raises(TrainingStopped, match="the gradient is not finite"):
        learner.on_before_optimizer_step(None)


def test_weights_that_are_no_numbers_are_not_validated():
    learner = learner_of()
    learner.training_step(batch_of(), 0)
    with torch.no_grad():
        next(learner.student.parameters())[0] = torch.nan
    with pytest.raises(TrainingStopped, match="the weights are not finite"):
        learner.on_validation_epoch_start()


def test_weights_that_are_no_numbers_before_any_batch_are_named_as_such():
    """A run that is taken up where a validation was due validates before it reads a batch."""
    learner = learner_of()
    with torch.no_grad():
        next(learner.student.parameters())[0] = torch.nan
    message = "step 0: the weights are not finite. No batch was read before.* the weights that training began with"
    with pytest.raises(TrainingStopped, match=message):
        learner.on_validation_epoch_start()


def test_losses_are_in_float32_whatever_the_precision(monkeypatch):
    learner = learner_of()
    seen = []
    loss = learner.losses[1][1]
    learner.losses[1] = ("consistency", lambda step: seen.append(step) or loss(step), learner.losses[1][2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = learner.training_step(batch_of(), 0)
    assert total.dtype == seen[0].student.strong.dtype == seen[0].teacher.weak.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    total.backward()


NOISE = torch.randn(3, 16000, generator=torch.Generator().manual_seed(3))
CLICK = torch.nn.functional.pad(torch.ones(3, 1), (8000, 7999))
ODD_AUDIO = {
    "silent": 0 * NOISE, "clipped": NOISE.sign(), "far too loud": 1e4 * NOISE, "hardly there": 1e-7 * NOISE,
    "click": CLICK,
}  # fmt: skip


def step_in_fp16(learner, waveform, scaler) -> bool:
    """Whether a training step in fp16 was made or, its gradient overflowing, skipped; its loss is finite either way."""
    optimizer = torch.optim.Adam(learner.student.parameters(), 1e-3)
    before = [p.detach().clone() for p in learner.student.parameters()]
    seen, loss = [], learner.losses[0][1]
    learner.losses[0] = ("supervised", lambda step: seen.append(step) or loss(step), {"name": "supervised"})
    with torch.autocast("cpu", dtype=torch.float16):
        total = learner.training_step(batch_of().replace(inputs=Inputs(waveform), clean=Inputs(waveform)), 0)
    assert total.dtype == seen[0].student.strong.dtype == torch.float32 and bool(total.isfinite())
    learner.scaler, scale = scaler, scaler.get_scale()
    scaler.scale(total).backward()
    scaler.unscale_(optimizer)
    learner.on_before_optimizer_step(optimizer)  # stops if no scale is small enough
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    after = list(learner.student.parameters())
    assert all(bool(p.isfinite().all()) for p in after)
    made = any(not p.equal(old) for p, old in zip(after, before, strict=True))
    assert scaler.get_scale() == (scale if made else scale / 2)
    assert learner._running["train/skipped_steps"][-1] == (not made)
    return made


@pytest.mark.parametrize("kind", ODD_AUDIO)
def test_an_odd_clip_in_a_batch_costs_no_step_in_fp16(kind):
    waveform = torch.cat([0.1 * NOISE[:2], ODD_AUDIO[kind][2:]])
    assert step_in_fp16(learner_of(), waveform, torch.amp.GradScaler("cpu", init_scale=1024.0))


@pytest.mark.parametrize("kind", ["silent", "far too loud"])
def test_batches_without_any_contrast_are_skipped_in_fp16_until_their_gradients_fit(kind):
    """Batch norms divide by no variance there, block after block."""
    learner, scaler = learner_of(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    made = [step_in_fp16(learner, ODD_AUDIO[kind], scaler) for _ in range(12)]
    assert not made[0] and made[-1] and 1.0 <= scaler.get_scale() < 1024.0


def test_accumulation_says_what_it_does_to_batch_statistics(caplog):
    with caplog.at_level(logging.WARNING, logger="sedflow.batch_statistics"):
        learner_of(accumulate=4).on_fit_start()
        assert "4 batches of 3 clips make a step" in caplog.text and "not the 12 clips" in caplog.text
        caplog.clear()
        learner_of(accumulate=4, fixed_batchnorm=True).on_fit_start()
        learner_of().on_fit_start()
        assert caplog.text == ""


@pytest.mark.parametrize("share", [SharedStatistics().apply, torch.nn.SyncBatchNorm.convert_sync_batchnorm])
def test_processes_say_which_batch_statistics_they_do_not_share(caplog, share):
    with caplog.at_level(logging.WARNING, logger="sedflow.batch_statistics"):
        learner_of(processes=2).on_fit_start()
        assert "2 share a batch of 3 clips" in caplog.text and "7 BatchNorms" in caplog.text
        caplog.clear()
        synchronised = learner_of(processes=2)
        synchronised.student = share(synchronised.student)
        synchronised.on_fit_start()
        learner_of(processes=2, fixed_batchnorm=True).on_fit_start()
        assert caplog.text == ""


def test_a_gradient_that_is_no_number_names_every_batch_of_its_step():
    learner = learner_of(accumulate=2)
    batches = [("one", "two", "three"), ("four", "five", "six"), ("seven", "eight", "nine")]
    named = []
    for number, clips in enumerate(batches):
        learner.training_step(batch_of().replace(clips=clips), number)
        named.append(learner._last[1])
    assert named == [batches[0], batches[0] + batches[1], batches[2]]


def test_only_encoders_that_an_augmentation_names_are_opened_for_it():
    """The other one may have no linear mel, as BEATs: it stays with the waveform."""
    settings = {"name": "mixup", "on": "spectrum", "probability": 1.0, "encoders": ["cnn"]}
    learner = learner_of(augment=[settings])
    whole = learner_of(augment=[settings | {"encoders": ["cnn", "atst"]}])
    batch = learner.augmented(batch_of(), np.random.default_rng(1))
    assert set(batch.inputs.spectra) == {"cnn"} and batch.inputs.waveform.equal(batch_of().inputs.waveform)
    learner.student.eval()
    scores = learner._predict(learner.student, batch.inputs, batch)
    whole.student.load_state_dict(learner.student.state_dict())
    opened = learner.student.opened(batch.inputs, "features")
    torch.testing.assert_close(scores.strong, learner._predict(learner.student, opened, batch).strong)
    assert set(whole.augmented(batch_of(), np.random.default_rng(1)).inputs.spectra) == {"cnn", "atst"}


def test_front_ends_compute_once_for_student_and_teacher_where_both_hear_the_same():
    augment = [{"name": "wavmix", "probability": 1.0}, {"name": "frame_shift", "max_seconds": 0.5, "clip_seconds": 1.0}]
    learner = learner_of(augment=[*augment, {"name": "freq_warp", "probability": 1.0, "encoders": ["cnn"]}])
    computed = []
    front_end = learner.student.encoders["cnn"].spectrogram
    front_end.register_forward_hook(lambda *_: computed.append(1))
    moved = learner.transfer_batch_to_device(batch_of(), torch.device("cpu"), 0)
    assert moved.clean is moved.inputs
    learner.augmented(moved, np.random.default_rng(1))
    assert len(computed) == 1


def test_the_teacher_hears_a_clip_as_long_as_it_is_and_silence_behind_it():
    learner = learner_of(losses=[{"name": "consistency"}], augment=[{"name": "mixup", "probability": 1.0}])
    batch = batch_of()
    batch.valid[0, 8:] = False
    drawn = (learner.augmented(batch, np.random.default_rng(seed)) for seed in range(20))
    mixed = next(one for one in drawn if one.mixing.partner[0] == 1)
    assert mixed.valid[0].all() and mixed.unmixed.valid.equal(batch.valid)
    masks, steps, loss = [], [], learner.losses[0][1]
    prediction = Prediction(torch.full((3, 16, 2), 4.0), torch.full((3, 2), 0.5))
    learner._predict = lambda network, inputs, batch, known=None: masks.append(batch.valid) or prediction
    learner.losses = [("consistency", lambda step: steps.append(step) or loss(step), learner.losses[0][2])]
    learner._note, learner.augmented = lambda *_: None, lambda batch, rng: mixed
    learner.training_step(batch, 0)
    assert masks[0][0].all() and masks[1].equal(batch.valid)
    probability, own = torch.tensor(4.0).sigmoid(), mixed.mixing.weight[0]
    told = loss.terms(steps[0], torch.tensor([True, False, False]))["strong"]
    torch.testing.assert_close(told, (own * probability).square() / 2)  # of one half of the frames its share is silent


def test_classes_that_labels_do_not_speak_of_are_left_out_in_training_only(monkeypatch):
    learner, seen = learner_of(), []
    batch = batch_of()
    batch = batch.replace(known=torch.tensor([[True, False], [True, True], [True, True]]))
    for name, network in learner.networks.items():
        network.pooling.register_forward_hook(lambda _, given, prediction, of=name: seen.append((of, prediction)))
    monkeypatch.setattr(Learner, "log", lambda *_, **__: None)
    clips = {name: Clip(name, name, 1.0, name, "validation") for name in batch.clips}
    monkeypatch.setattr(learner.clips, "clips", clips)
    learner.training_step(batch, 0)
    assert [name for name, _ in seen] == ["student", "teacher"]
    for _, prediction in seen:
        assert prediction.weak[0, 1] == 0 and bool((prediction.weak[1:] > 0).all())
    seen.clear()
    learner.on_validation_epoch_start()
    with torch.no_grad():
        learner.validation_step(batch, 0)
    assert all(prediction.known is None for _, prediction in seen) and len(seen) == 2


def test_a_mixed_clip_is_held_to_the_teachers_scores_of_both_its_parts():
    """Row 0 and 1 are mixed and know both classes; row 1 is the partner of row 2 too, which knows only one."""
    learner = learner_of(losses=[{"name": "consistency", "classes": "known"}], augment=[{"name": "mixup"}])
    known = torch.tensor([[True, True], [True, True], [True, False]])
    batch = batch_of().replace(known=known)
    mixing = Mixing(torch.tensor([1, 2, 0]), torch.full((3,), 0.6), torch.zeros(3))
    asked = []
    learner.augmented = lambda batch, rng: mixed_labels(batch, mixing, "soft", "both").replace(
        mixing=mixing, clean_known=batch.known
    )
    learner._note = lambda *_: None
    loss = learner.losses[0][1]
    learner.losses = [("consistency", lambda step: asked.append(step) or loss(step), learner.losses[0][2])]
    learner.training_step(batch, 0)
    step = asked[0]
    assert step.batch.known.tolist() == [[True, True], [True, False], [True, False]]
    # of row 1 the teacher is heard in both classes, though mixed with row 2 it knows one
    assert bool((step.teacher.strong[:2] > 0).all()) and bool((step.teacher.strong[2, :, 1] == 0).all())
    assert bool((step.student.strong[1, :, 1] == 0).all())
    target = 0.6 * step.teacher.strong[0] + 0.4 * step.teacher.strong[1]
    error = (step.student.strong[0] - target).square().mean()
    row_0 = Consistency(weak_weight=0.0, classes="known", sources=["real_strong"])
    only = dataclasses.replace(step, batch=step.batch.replace(sources=("real_strong", "x", "y")))
    torch.testing.assert_close(row_0(only), error)


def test_a_mask_does_not_reach_a_consistency_over_all_classes(monkeypatch):
    learner = learner_of(losses=[{"name": "consistency"}], teacher={"decay": 0.9, "mode": "train"})
    monkeypatch.setattr(Learner, "log", lambda *_, **__: None)
    learner.teacher.pooling.strong.bias.data += 1.0  # so that they differ
    masked = batch_of().replace(known=torch.tensor([[True, False], [True, True], [True, True]]))
    of_all, masked_of_all = learner.training_step(batch_of(), 0), learner.training_step(masked, 0)
    assert of_all > 0 and torch.equal(of_all, masked_of_all)


def test_a_checkpoint_that_fell_out_of_the_best_stays_until_the_state_without_it_is_written(tmp_path):
    checkpoints, old, new = AtomicCheckpoints(), tmp_path / "step=1.ckpt", tmp_path / "step=2.ckpt"
    checkpoints.save_checkpoint({"step": 1}, old)
    checkpoints.save_checkpoint({"best": str(old)}, tmp_path / LAST)
    checkpoints.save_checkpoint({"step": 2}, new)
    checkpoints.remove_checkpoint(old)
    assert old.exists()  # a run that is killed now goes on from a state that calls it the best
    checkpoints.save_checkpoint({"best": str(new)}, tmp_path / LAST)
    assert not old.exists() and new.exists()


def test_what_was_best_is_known_again_where_the_work_folder_was_moved_to(tmp_path):
    before, now = MovableCheckpoints(tmp_path / "old/top"), MovableCheckpoints(tmp_path / "new/top")
    before.best_model_path = before.kth_best_model_path = str(tmp_path / "old/top/step=3.ckpt")
    before.best_k_models = {before.best_model_path: torch.tensor(0.7)}
    before.best_model_score = before.kth_value = torch.tensor(0.7)
    now.load_state_dict(before.state_dict())
    assert now.best_model_path == now.kth_best_model_path == str(tmp_path / "new/top/step=3.ckpt")
    assert now.best_k_models == {now.best_model_path: torch.tensor(0.7)} and now.best_model_score == 0.7
    assert now.last_model_path == ""


def test_what_a_kill_left_in_the_work_folder_goes_when_the_run_goes_on(tmp_path):
    before = MovableCheckpoints(tmp_path / "top", monitor="monitor", mode="max", save_top_k=2)
    before.best_model_path = str(tmp_path / "top/step=2.ckpt")
    before.best_k_models = {
        before.best_model_path: torch.tensor(0.5),
        str(tmp_path / "top/step=4.ckpt"): torch.tensor(0.4),
    }
    (tmp_path / "top").mkdir()
    for name in ("top/step=1.ckpt", "top/step=2.ckpt", "top/step=4.ckpt", "top/step=6.ckpt.part", "last.ckpt", "data"):
        (tmp_path / name).touch()
    MovableCheckpoints(tmp_path / "top", monitor="monitor", mode="max", save_top_k=2).load_state_dict(
        before.state_dict()
    )
    assert {path.name for path in (tmp_path / "top").iterdir()} == {"step=2.ckpt", "step=4.ckpt"}
    last = MovableCheckpoints(tmp_path, filename="last")
    last.best_model_path = str(tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt.part").touch()
    MovableCheckpoints(tmp_path, filename="last").load_state_dict(last.state_dict())
    assert {path.name for path in tmp_path.iterdir()} == {"top", "last.ckpt", "data"}


@pytest.mark.parametrize(("key", "value"), [("labels", ["b", "a"]), ("sample_rate", 32000)])
def test_a_detector_that_listens_along_needs_the_classes_and_the_rate_of_the_page(monkeypatch, key, value):
    loss = type("Listener", (), {key: value})()
    monkeypatch.setattr("sedflow.learner.build_losses", lambda specs: [("distillation", loss, {})])
    with pytest.raises(SettingsError, match=f"distillation: its checkpoint has the {key} "):
        learner_of(losses=[{"name": "distillation"}])


def test_a_detector_that_listens_along_without_linear_mel_cannot_follow_mixtures_of_it():
    encoders = {"beats": torch.nn.Identity()}
    losses = [("distillation", SimpleNamespace(detector=SimpleNamespace(encoders=encoders)), {})]
    check_listeners(losses, ["a"], 16000, [{"name": "mixup", "on": "features"}])
    with pytest.raises(SettingsError, match="the beats of its checkpoint has no linear mel"):
        check_listeners(losses, ["a"], 16000, [{"name": "mixup", "on": "spectrum"}])


RUN = {
    "system": "test",
    "stage": {"workers": 0, "steps": 10},
    "inference": {"window_seconds": 10.0, "batch": 8},
    "feature_shards": 2,
}


@pytest.mark.parametrize("change", [{"stage": {"workers": 6}}, {"inference": {"batch": 1}}, {"feature_shards": 4}])
def test_a_run_goes_on_where_only_time_and_memory_change(change):
    of = functools.partial(run_digest, seed=1, files=[], classes=["a"])
    before = copy.deepcopy(RUN)
    assert of(overlay(RUN, change)) == of(RUN)
    assert before == RUN


@pytest.mark.parametrize(
    "change", [{"stage": {"steps": 20}}, {"inference": {"window_seconds": 5.0}}, {"system": "other"}]
)
def test_a_run_does_not_go_on_with_other_settings(change):
    of = functools.partial(run_digest, seed=1, files=[], classes=["a"])
    assert of(overlay(RUN, change)) != of(RUN)


def test_a_run_does_not_go_on_with_classes_in_another_order_or_with_other_recordings_to_augment_by(tmp_path):
    settings = RUN | {"stage": {"augment": [{"name": "device_response", "folder": str(tmp_path)}]}}
    before = run_digest(settings, 1, [], ["a", "b"])
    assert run_digest(settings, 1, [], ["b", "a"]) != before
    assert run_digest(settings, 1, [], ["a", "b"]) == before
    (tmp_path / "phone.wav").write_bytes(b"\0")
    assert run_digest(settings, 1, [], ["a", "b"]) != before


def test_a_job_waits_while_another_is_at_the_same_run(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    inside, leave, done = context.Event(), context.Event(), threading.Event()

    def hold():
        with alone_in(tmp_path):
            inside.set()
            leave.wait(30)

    def follow():
        with alone_in(tmp_path):
            done.set()

    other = context.Process(target=hold)
    other.start()
    assert inside.wait(30)
    second = threading.Thread(target=follow)
    second.start()
    assert not done.wait(0.5)
    monkeypatch.setenv("LOCAL_RANK", "1")  # a process that shares batches with the one that holds the run
    with alone_in(tmp_path):
        leave.set()
    assert done.wait(30)
    second.join()
    other.join()
