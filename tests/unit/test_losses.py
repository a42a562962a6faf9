"""Losses: what counts, what does not, and whose gradient it is."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from sedflow.dataset import Batch, Inputs, Mixing
from sedflow.detector import Detector, Prediction, build_detector
from sedflow.learner import Step
from sedflow.losses.consistency import Consistency
from sedflow.losses.distillation import Distillation
from sedflow.losses.supervised import Supervised
from sedflow.specification import Specification, save_detectors

SOURCES = ("real_strong", "soft", "weak", "weak", "unlabeled", "pseudo")
KINDS = ("strong", "soft", "weak", "weak", "none", "pseudo")
FRAMES, CLASSES = 10, 4


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows = len(SOURCES)
    strong = torch.rand(rows, FRAMES, CLASSES, generator=generator)
    strong[0] = strong[0].round()
    known = torch.ones(rows, CLASSES, dtype=torch.bool)
    known[0, 2:] = False
    known[3, 0] = False
    inputs = Inputs(None)
    return Batch(
        inputs, inputs, strong, strong.amax(1).round(), torch.ones(rows, FRAMES, dtype=torch.bool), SOURCES, KINDS,
        tuple(map(str, range(rows))), known=known, pseudo=torch.rand(strong.shape, generator=generator),
        has_pseudo=torch.tensor([True, False, False, False, False, True]),
    )  # fmt: skip


def prediction(batch, seed):
    logits = torch.randn(batch.strong.shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    return Prediction(logits, logits.sigmoid().mean(1))


def step_of(batch, **changes):
    return Step(dataclasses.replace(batch, **changes), prediction(batch, 1), prediction(batch, 2))


def bce(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets)


def test_masked_classes_neither_count_nor_dilute(batch):
    step = step_of(batch)
    logits, strong = step.student.strong_logits, batch.strong
    counted = torch.cat([logits[0, :, :2].flatten(), logits[1].flatten()])
    targets = torch.cat([strong[0, :, :2].flatten(), strong[1].flatten()])
    terms = Supervised().terms(step)
    torch.testing.assert_close(terms["strong"], bce(counted, targets))
    terms["strong"].backward()
    touched = logits.grad.abs().sum(1) > 0
    expected = batch.known.clone()
    expected[2:] = False
    assert touched.equal(expected)
    weak = step.student.weak
    kept = batch.known[2:4]
    torch.testing.assert_close(terms["weak"], F.binary_cross_entropy(weak[2:4][kept], batch.weak[2:4][kept]))


def test_upstreams_dilution_takes_the_mean_over_masked_classes_too(batch):
    step = step_of(batch)
    # as upstream has it: predictions and labels of masked classes are 0 and add nothing
    zeroed = [part[:2] * batch.known[:2].unsqueeze(1) for part in (step.student.strong, batch.strong)]
    torch.testing.assert_close(Supervised(dilute=True).terms(step)["strong"], F.binary_cross_entropy(*zeroed))


def test_padding_does_not_count(batch):
    valid = batch.valid.clone()
    valid[0, 6:] = False
    step = step_of(batch, valid=valid, known=torch.ones_like(batch.known))
    expected = bce(
        torch.cat([step.student.strong_logits[0, :6], step.student.strong_logits[1]]),
        torch.cat([batch.strong[0, :6], batch.strong[1]]),
    )
    torch.testing.assert_close(Supervised().terms(step)["strong"], expected)


def test_a_loss_can_be_of_some_sources_and_strong_clips_can_count_as_weak(batch):
    step = step_of(batch, known=torch.ones_like(batch.known))
    soft = Supervised(sources=["soft"])(step)
    torch.testing.assert_close(soft, bce(step.student.strong_logits[1], batch.strong[1]))
    weak = Supervised(weak_from_strong=True).terms(step)["weak"]
    torch.testing.assert_close(weak, F.binary_cross_entropy(step.student.weak[:4], batch.weak[:4]))
    assert Supervised(sources=["synthetic_strong"])(step) == 0


@pytest.mark.parametrize("logit", [-5.0, -20.0, -80.0])
def test_a_class_of_a_weak_clip_that_scores_next_to_nothing_is_learnt(batch, logit):
    logits = torch.full(batch.strong.shape, logit, requires_grad=True)
    everything = {"weak": torch.ones_like(batch.weak), "known": torch.ones_like(batch.known)}
    step = dataclasses.replace(step_of(batch, **everything), student=Prediction(logits, logits.sigmoid().mean(1)))
    loss = Supervised().terms(step)["weak"]
    loss.backward()
    expected = F.softplus(torch.tensor(-logit))
    torch.testing.assert_close(loss, expected)
    if logit > -25:  # below, as in PyTorch, it fades
        torch.testing.assert_close(logits.grad.sum(), -torch.sigmoid(torch.tensor(-logit)))
    assert logits.grad.isfinite().all()


def test_mean_teacher_is_the_mean_over_the_whole_batch(batch):
    step = step_of(batch)
    student, teacher = step.student, step.teacher
    expected = F.mse_loss(student.strong, teacher.strong) + 0.5 * F.mse_loss(student.weak, teacher.weak)
    loss = Consistency(weak_weight=0.5, group_divisor=24)(step)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.strong_logits.grad is not None and teacher.strong_logits.grad is None


def test_interpolation_consistency_adds_up_its_groups(batch):
    group = torch.tensor([0, 0, 1, 1, 2, 2])
    mixing = Mixing(torch.tensor([1, 0, 3, 2, 5, 4]), torch.tensor([0.7, 0.7, 0.2, 0.2, 0.9, 0.9]), group)
    step = step_of(batch, mixing=mixing)
    student, strong, weak = step.student, mixing.apply(step.teacher.strong), mixing.apply(step.teacher.weak)
    means = [
        F.mse_loss(student.strong[rows], strong[rows]) + 0.5 * F.mse_loss(student.weak[rows], weak[rows])
        for rows in (group == number for number in range(3))
    ]
    torch.testing.assert_close(Consistency(weak_weight=0.5, group_divisor=24)(step), sum(means) / 24)
    # real_strong and soft were mixed jointly: CP-JKU counts that group for each of them
    twice = Consistency(weak_weight=0.5, group_divisor=32, count_kinds=True)(step)
    torch.testing.assert_close(twice, (2 * means[0] + means[1] + 2 * means[2]) / 32)
    alike = step_of(batch, mixing=dataclasses.replace(mixing, clean_too=True))
    torch.testing.assert_close(
        Consistency(group_divisor=24)(alike),
        F.mse_loss(student.strong, step.teacher.strong) + F.mse_loss(student.weak, step.teacher.weak),
    )


def test_rows_that_nothing_mixed_are_one_group_more(batch):
    group = torch.tensor([-1, -1, 0, 0, -1, -1])
    mixing = Mixing(torch.tensor([0, 1, 3, 2, 4, 5]), torch.tensor([1.0, 1.0, 0.2, 0.2, 1.0, 1.0]), group)
    step = step_of(batch, mixing=mixing)
    strong, weak = mixing.apply(step.teacher.strong), mixing.apply(step.teacher.weak)
    assert strong[group < 0].equal(step.teacher.strong[group < 0])  # they match what the teacher says of them
    means = [
        F.mse_loss(step.student.strong[rows], strong[rows]) + F.mse_loss(step.student.weak[rows], weak[rows])
        for rows in (group == 0, group < 0)
    ]
    torch.testing.assert_close(Consistency(group_divisor=24)(step), sum(means) / 24)


def test_consistency_of_known_classes_and_some_sources(batch):
    step = step_of(batch)
    error = (step.student.strong - step.teacher.strong).square()
    known = batch.known.unsqueeze(1).expand_as(error)
    strong_only = Consistency(weak_weight=0.0, classes="known")
    torch.testing.assert_close(strong_only(step), error[known].mean())
    diluted = Consistency(weak_weight=0.0, classes="known", dilute=True)
    torch.testing.assert_close(diluted(step), (error * known).mean())
    some = Consistency(sources=["weak", "unlabeled"], weak_sources=["unlabeled"])(step)
    weak_error = (step.student.weak - step.teacher.weak).square()
    torch.testing.assert_close(some, error[2:5].mean() + weak_error[4].mean())


def test_interpolations_count_in_classes_that_both_parts_know(batch):
    partner = torch.tensor([3, 1, 2, 0, 4, 5])
    mixing = Mixing(partner, torch.full((6,), 0.7), torch.zeros(6))
    both, either = batch.known & batch.known[partner], batch.known | batch.known[partner]
    loss = Consistency(weak_weight=0.0, classes="known")
    step = step_of(batch, mixing=mixing, clean_known=batch.known, known=either)
    error = (step.student.strong - mixing.apply(step.teacher.strong)).square()
    torch.testing.assert_close(loss(step), error[both.unsqueeze(1).expand_as(error)].mean())
    same = dataclasses.replace(step, batch=dataclasses.replace(step.batch, known=both))
    assert torch.equal(loss(step), loss(same)) and not either.equal(both)


def test_distillation_balances_pseudo_labels_and_hard_labels(batch):
    step = step_of(batch, known=torch.ones_like(batch.known))
    logits = step.student.strong_logits
    soft = bce(logits[[0, 5]], batch.pseudo[[0, 5]])
    torch.testing.assert_close(Distillation()(step), soft)
    # of the clips with pseudo-labels, one has hard labels
    balanced = 0.9 * soft + 0.1 * bce(logits[0], batch.strong[0])
    torch.testing.assert_close(Distillation(balance=0.9)(step), balanced)
    torch.testing.assert_close(Distillation(sources=["pseudo"])(step), bce(logits[5], batch.pseudo[5]))
    nothing = Distillation()(step_of(batch, pseudo=None, has_pseudo=None))
    assert nothing == 0
    nothing.backward()


DETECTOR = {
    "encoders": [{"name": "cnn", "channels": [4] * 7}], "sequence": {"name": "bigru", "width": 4, "layers": 1},
    "frame_rate": 15.625, "pooling": "attention", "dropout": 0.5, "merge_dim": None, "merge_norm": False,
}  # fmt: skip


@pytest.fixture
def listener(tmp_path):
    path = tmp_path / "best.safetensors"
    specification = Specification(
        system="x", stage="y", classes=list("abcd"), sample_rate=16000, frame_rate=15.625, clip_seconds=0.64,
        detector=DETECTOR, inference={}, networks=["student"], seed=1, step=1,
    )  # fmt: skip
    detector = build_detector(DETECTOR, CLASSES)
    save_detectors(path, {"student": detector}, specification)
    return path, detector.eval()


@pytest.mark.parametrize("domain", ["waveform", "spectrum", "features"])
def test_a_detector_that_listens_along_hears_the_same_mixture(batch, listener, domain):
    path, detector = listener
    waveform = torch.rand(6, 10240, generator=torch.Generator().manual_seed(5)) - 0.5
    mixing = Mixing(torch.tensor([1, 0, 3, 2, 5, 4]), torch.full((6,), 0.7), torch.zeros(6), domain)
    heard = mixing.apply(waveform) if domain == "waveform" else waveform
    step = step_of(batch, inputs=Inputs(heard), mixing=mixing)
    loss = Distillation(checkpoint=str(path))
    targets = loss.listen(step.batch)
    opened = detector.opened(Inputs(heard), "features")
    if domain == "spectrum":
        power = detector.opened(Inputs(waveform), "spectrum")
        opened = dataclasses.replace(power, spectra={"cnn": mixing.apply(power.spectra["cnn"])})
    elif domain == "features":
        opened = dataclasses.replace(opened, features={"cnn": mixing.apply(opened.features["cnn"])})
    with torch.no_grad():
        expected = detector.read(opened, FRAMES, batch.valid).strong
    torch.testing.assert_close(targets, expected)
    value = loss(step)
    torch.testing.assert_close(value, bce(step.student.strong_logits, expected))
    value.backward()
    assert all(parameter.grad is None for parameter in loss.detector.parameters())
    assert isinstance(loss.detector, Detector) and not loss.detector.training and loss.labels == list("abcd")


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
def test_a_detector_that_listens_along_computes_in_the_precision_of_the_student(batch, listener, half):
    path, _ = listener
    loss = Distillation(checkpoint=str(path))
    seen = []
    loss.detector.merge.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    waveform = torch.rand(6, 10240, generator=torch.Generator().manual_seed(5)) - 0.5
    step = dataclasses.replace(step_of(batch, inputs=Inputs(waveform)), half=half)
    assert loss(step).dtype == torch.float32
    assert seen == [half or torch.float32]
