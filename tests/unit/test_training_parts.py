"""Batches, augmentation, losses, schedules: the parts of a training step."""

import math

import numpy as np
import pytest
import torch

from sedflow import audio, plugins
from sedflow.dataset import Batch, ClipSet, Inputs
from sedflow.detector import Prediction, build_detector
from sedflow.events import ClassSet, Clip, Event, LabelError
from sedflow.features import Cache, CacheError, cache_key, write_shard
from sedflow.frames import FrameGrid
from sedflow.learner import Step
from sedflow.loading import TrainingBatches
from sedflow.losses.consistency import Consistency
from sedflow.losses.supervised import Supervised
from sedflow.optimization import learning_rate_factor, parameter_groups, ramp

CLASSES = ClassSet(("dog", "cat"))
KINDS = {"real_strong": "strong", "weak": "weak", "unlabeled": "none"}


def augment(name, batch, rng, **settings):
    return plugins.load("augment", name)(batch, rng, **settings)


def clip_of(source, number, seconds=2.0):
    return Clip(f"{source}-{number}", f"{source}-{number}.flac", seconds, f"sha-{source}-{number}", source)


@pytest.fixture
def clips(tmp_path) -> ClipSet:
    rng = np.random.default_rng(0)
    made = [clip_of(source, number) for source in KINDS for number in range(5)] + [clip_of("weak", 9, 1.0)]
    for clip in made:
        audio.write(tmp_path / clip.path, rng.uniform(-0.5, 0.5, round(clip.seconds * 8000)).astype(np.float32), 8000)
    strong = {f"real_strong-{k}": [Event(0.2 * k, 0.2 * k + 0.5, "dog")] for k in range(5)}
    weak = {f"weak-{k}": ("cat",) for k in (0, 1, 2, 3, 4, 9)}
    options = {"grid": FrameGrid(10), "clip_seconds": 2.0, "sample_rate": 8000, "caches": {}, "root": tmp_path}
    return ClipSet(made, KINDS, strong, weak, CLASSES, **options)


@pytest.fixture
def batch(clips) -> Batch:
    return clips.batch(["real_strong-1", "weak-0", "real_strong-2", "weak-9", "unlabeled-0", "unlabeled-1"])


def prediction(batch: Batch, seed=0, grad=False) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch.strong.shape, generator=generator).requires_grad_(grad)
    return Prediction(logits, logits.sigmoid().mean(1))


def test_a_batch_has_targets_only_where_its_source_has_labels(batch):
    assert batch.strong[0, 2:7, 0].eq(1).all()
    assert batch.strong[0].sum() == 5
    assert batch.strong[batch.rows("weak")].sum() == 0
    assert batch.weak[batch.rows("weak"), 1].eq(1).all()
    assert batch.weak[batch.rows("unlabeled")].sum() == 0
    assert batch.valid[3].sum() == 10  # one second of two
    assert batch.inputs.waveform.shape == (6, 16000)
    assert batch.inputs.waveform[3, 8000:].abs().max() == 0


def test_batches_depend_on_seed_and_step_alone_and_use_every_clip(clips):
    shares = {"real_strong": 2, "weak": 1, "unlabeled": 0}
    batches = TrainingBatches(clips, shares, seed=7)
    again = TrainingBatches(clips, shares, seed=7)
    assert batches.ids(40) == again.ids(40)
    assert [batches.ids(k) for k in range(8)] != [TrainingBatches(clips, shares, seed=8).ids(k) for k in range(8)]
    one_round = [clip for step in range(5) for clip in batches.ids(step) if clip.startswith("real_strong")]
    assert sorted(one_round) == sorted(2 * [f"real_strong-{k}" for k in range(5)])
    assert not any(clip.startswith("unlabeled") for clip in batches.ids(3))


def test_a_source_without_clips_and_a_clip_that_is_too_long_are_named(clips, tmp_path):
    with pytest.raises(LabelError, match=r"no clips in \['soft'\]"):
        TrainingBatches(clips, {"soft": 1}, seed=1)
    options = {"grid": FrameGrid(10), "clip_seconds": 1.0, "sample_rate": 8000, "caches": {}, "root": tmp_path}
    with pytest.raises(LabelError, match="longer than clip_seconds"):
        ClipSet([clip_of("weak", 0)], KINDS, {}, {}, CLASSES, **options)


def test_mixup_stays_within_a_kind_and_mixes_everything_alike(batch):
    mixed = augment("mixup", batch, np.random.default_rng(1), probability=1.0, alpha=0.5)
    partner = mixed.mixing.partner
    assert all(batch.kinds[row] == batch.kinds[other] for row, other in enumerate(partner.tolist()))
    torch.testing.assert_close(mixed.inputs.waveform, mixed.mixing.apply(batch.inputs.waveform))
    torch.testing.assert_close(mixed.strong, mixed.mixing.apply(batch.strong))
    assert mixed.clean is batch.clean
    assert augment("mixup", batch, np.random.default_rng(1), probability=0.0) is batch


def test_frame_shift_moves_sound_and_labels_together(batch):
    shifted = augment("frame_shift", batch, np.random.default_rng(3), max_seconds=1.0, clip_seconds=2.0)
    moved = [k for k in range(3) if not torch.equal(shifted.strong[k], batch.strong[k])]
    assert moved
    for row in (0, 2):
        shift = next(s for s in range(20) if torch.equal(batch.strong[row].roll(s, 0), shifted.strong[row]))
        torch.testing.assert_close(shifted.inputs.waveform[row], batch.inputs.waveform[row].roll(shift * 800, 0))
    # a padded clip stays where it is
    torch.testing.assert_close(shifted.inputs.waveform[3], batch.inputs.waveform[3])
    torch.testing.assert_close(shifted.clean.waveform, shifted.inputs.waveform)


@pytest.mark.parametrize("name", ["gain", "equalize", "time_mask"])
def test_what_disturbs_the_student_leaves_teacher_and_targets(batch, name):
    changed = augment(name, batch, np.random.default_rng(0))
    assert not torch.equal(changed.inputs.waveform, batch.inputs.waveform)
    torch.testing.assert_close(changed.clean.waveform, batch.clean.waveform)
    torch.testing.assert_close(changed.strong, batch.strong)
    assert changed.inputs.waveform.isfinite().all()


def test_an_equalizer_of_no_gain_is_identity(batch):
    same = augment("equalize", batch, np.random.default_rng(0), max_db=0.0, probability=1.0)
    torch.testing.assert_close(same.inputs.waveform, batch.inputs.waveform, atol=1e-5, rtol=1e-4)


def test_weak_clips_add_no_frame_loss_and_padding_none(batch):
    student = prediction(batch, grad=True)
    Supervised(weak_weight=0.0)(Step(batch, student, None)).backward()
    touched = student.strong_logits.grad.abs().sum((1, 2)) > 0
    assert touched.tolist() == [kind == "strong" for kind in batch.kinds]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(student.strong_logits[[0, 2]], batch.strong[[0, 2]])
    torch.testing.assert_close(Supervised(weak_weight=0.0)(Step(batch, student, None)), expected)


def test_losses_are_zero_without_rows_of_their_source(clips):
    unlabeled = clips.batch(["unlabeled-0", "unlabeled-1"])
    assert float(Supervised()(Step(unlabeled, prediction(unlabeled), None))) == 0


def test_consistency_follows_the_mixing_and_spares_the_teacher(batch):
    mixed = augment("mixup", batch, np.random.default_rng(5), probability=1.0, alpha=0.5)
    teacher = prediction(batch, seed=1, grad=True)
    wanted = mixed.mixing.apply(teacher.strong.detach())
    logits = torch.logit(wanted.clamp(1e-6, 1 - 1e-6)).requires_grad_()
    student = Prediction(logits, mixed.mixing.apply(teacher.weak.detach()))
    loss = Consistency()(Step(mixed, student, teacher))
    assert float(loss) < 1e-9
    Consistency()(Step(mixed, prediction(batch, seed=2, grad=True), teacher)).backward()
    assert teacher.strong_logits.grad is None


def test_published_schedule_values():
    # specs, atst_desed.md appendix C
    assert ramp(1, 290) == pytest.approx(0.006974, abs=1e-6)
    assert ramp(145, 290) == pytest.approx(0.286505, abs=1e-6)
    assert ramp(290, 290) == 1
    stage2 = {"warmup_steps": 290, "warmup": "exponential", "schedule": "cosine", "floor": 0.1}
    assert learning_rate_factor(1000, 7250, stage2) == pytest.approx(0.97709, abs=1e-4)
    assert learning_rate_factor(3770, 7250, stage2) == pytest.approx(0.55, abs=1e-3)
    assert learning_rate_factor(7250, 7250, stage2) == pytest.approx(0.1)
    # EfficientSED and CP-JKU, cpjku_efficient.md 4.3: half a cosine over steps 0 … 46919 behind 20 000 of warm-up
    efficient = {"warmup_steps": 20000, "warmup": "linear", "schedule": "cosine", "floor": 0.0}
    told = [0.5 * (1 + math.cos(math.pi * (step - 20000) / 26920)) for step in (20000, 30000, 46919)]
    assert [learning_rate_factor(step, 46920, efficient) for step in (20000, 30000, 46919)] == pytest.approx(told)
    assert told[-1] > 0 and learning_rate_factor(11729, 11730, efficient) == pytest.approx(0.5865)
    linear = {"warmup_steps": 10, "warmup": "linear", "schedule": "constant", "floor": 0.0}
    assert [learning_rate_factor(k, 100, linear) for k in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1, 1])


def test_parameter_groups_hold_every_trained_parameter_once_and_spare_norms():
    settings = {
        "encoders": [{"name": "mobilenet", "width": 0.4}], "sequence": {"name": "bigru", "width": 8},
        "frame_rate": 25.0, "pooling": "mean", "dropout": 0.0, "merge_dim": None, "merge_norm": True,
    }  # fmt: skip
    detector = build_detector(settings, 3)
    optimizer = {"lr": {"head": 1e-3, "mobilenet": 1e-4}, "layer_decay": {"mobilenet": 0.5}, "weight_decay": 0.01}
    groups = parameter_groups(detector, optimizer)
    chosen = [id(p) for group in groups for p in group["params"]]
    assert sorted(chosen) == sorted(id(p) for p in detector.parameters())
    assert all(p.dim() > 1 for group in groups if group["weight_decay"] for p in group["params"])
    rates = {group["name"]: group["lr"] for group in groups}
    depth = len(detector.encoders["mobilenet"].layers())
    assert rates[f"mobilenet.{depth - 1}"] == pytest.approx(1e-4)
    assert rates["mobilenet.0"] == pytest.approx(1e-4 * 0.5 ** (depth - 1))
    detector.freeze(["mobilenet"])
    frozen = parameter_groups(detector, optimizer)
    assert not any(group["name"].startswith("mobilenet") for group in frozen)


def test_the_cache_gives_back_what_was_written_and_refuses_other_audio(tmp_path):
    clips = [clip_of("weak", k) for k in range(4)]
    embeddings = np.random.default_rng(0).normal(size=(4, 20, 6)).astype(np.float16)
    write_shard(tmp_path / "weak-0.npy", clips[:2], embeddings[:2], 10.0)
    write_shard(tmp_path / "weak-1.npy", clips[2:], embeddings[2:], 10.0)
    cache = Cache([tmp_path / "weak-0.npy", tmp_path / "weak-1.npy"])
    np.testing.assert_array_equal(cache.read(["weak-3", "weak-0"]), embeddings[[3, 0]])
    cache.check(clips[1])
    with pytest.raises(CacheError, match="not in the cache of its source; run the rule `features`"):
        cache.check(clip_of("weak", 7))
    with pytest.raises(CacheError, match="the audio changed"):
        cache.check(Clip("weak-1", "x", 2.0, "another", "weak"))


def test_an_interrupted_cache_shard_is_not_taken_for_finished(tmp_path):
    write_shard(tmp_path / "weak-0.npy", [clip_of("weak", 0)], np.zeros((1, 20, 6), np.float16), 10.0)
    (tmp_path / "weak-0.json").unlink()
    with pytest.raises(CacheError, match="the shard is unfinished"):
        Cache([tmp_path / "weak-0.npy"])


@pytest.mark.parametrize(("file", "kept"), [("weak-0.json", 20), ("weak-0.npy", 200), ("weak-0.npy", 0)])
def test_a_damaged_cache_shard_is_named_with_the_cure(tmp_path, file, kept):
    write_shard(tmp_path / "weak-0.npy", [clip_of("weak", 0)], np.zeros((1, 20, 6), np.float16), 10.0)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:kept])
    with pytest.raises(CacheError, match=r"weak-0.npy: damaged .*delete it and its index, run again"):
        Cache([tmp_path / "weak-0.npy"])


def test_the_cache_key_follows_everything_the_numbers_depend_on():
    encoder = {"name": "mobilenet", "width": 0.4}
    keys = {
        cache_key(encoder, "code", "abc", 10.0, 16000),
        cache_key(encoder | {"gain_db": 20.0}, "code", "abc", 10.0, 16000),
        cache_key(encoder, "other code", "abc", 10.0, 16000),
        cache_key(encoder, "code", "abd", 10.0, 16000),
        cache_key(encoder, "code", "abc", 5.0, 16000),
        cache_key(encoder, "code", "abc", 10.0, 32000),
    }
    assert len(keys) == 6
    assert cache_key({"width": 0.4, "name": "mobilenet"}, "code", "abc", 10.0, 16000) in keys


def test_inputs_without_waveform_pass_every_augmentation_a_cache_allows(batch):
    cached = Inputs(None, {"mobilenet": torch.randn(6, 20, 4)})
    of_cache = batch.replace(inputs=cached, clean=cached)
    rng = np.random.default_rng(0)
    for name in ("mixup", "frame_shift", "time_mask", "feature_noise"):
        of_cache = augment(name, of_cache, rng)
    assert of_cache.inputs.waveform is None
    assert math.isfinite(float(of_cache.inputs.embeddings["mobilenet"].sum()))
