"""Schedules, parameter groups, the teacher's update, and what no score depends on."""

import copy

import pytest
import torch

from sedflow import plugins
from sedflow.detector import Detector, build_detector, build_encoder
from sedflow.loading import Row, Share
from sedflow.optimization import (
    build_optimizer,
    freeze_unused,
    learning_rate_factor,
    never_decay,
    ramp,
    teacher_decay,
    update_teacher,
)

SETTINGS = {
    "encoders": [{"name": "cnn", "channels": [4] * 7}], "sequence": {"name": "bigru", "width": 4, "layers": 1},
    "frame_rate": 15.625, "pooling": "attention", "dropout": 0.0, "merge_dim": 6, "merge_norm": False,
}  # fmt: skip


def test_constant_then_cosine_is_the_baseline_of_2024():
    # specs, atst_desed.md appendix C: lr factor at steps 11800, 20000, 30000, 35400, counted from 1
    baseline = {
        "warmup_steps": 5900, "warmup": "exponential", "schedule": "constant_then_cosine", "constant_steps": 11800,
        "floor": 1e-5,
    }  # fmt: skip
    factors = [learning_rate_factor(step - 1, 35400, baseline) for step in (5900, 11800, 20000, 30000, 35400)]
    assert factors == pytest.approx([1, 1, 0.85472, 0.35173, 1e-5], abs=2e-5)


def test_ramps_of_loss_weights():
    assert [ramp(step, 10, "linear") for step in (1, 5, 10, 30)] == pytest.approx([0.1, 0.5, 1, 1])
    assert ramp(30, 10, "linear", limit=2.0) == 2.0  # CP-JKU's first stage
    assert ramp(1, 10, "constant") == ramp(1, 0) == 1.0
    assert ramp(5, 10) == pytest.approx(0.286505, abs=1e-6)


def test_the_teacher_keeps_a_ramped_or_a_constant_share_of_itself():
    ramped = [teacher_decay(step, {"ramped": True, "decay": 0.999}) for step in (0, 1, 8)]
    assert ramped == pytest.approx([0.5, 2 / 3, 0.9])
    assert teacher_decay(5000, {"ramped": True, "decay": 0.999}) == 0.999
    assert teacher_decay(0, {"ramped": False, "decay": 0.999}) == 0.999


def test_the_teacher_moves_over_parameters_and_not_over_batch_statistics():
    student = build_detector(SETTINGS, 2)
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
        student.encoders["cnn"].blocks[0].norm.running_mean.add_(1.0)
    before = copy.deepcopy(teacher.state_dict())
    update_teacher(teacher, student, 0.9)
    names = dict(teacher.named_parameters())
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.1 if name in names else before[name], msg=name)


def test_a_teacher_that_evaluates_follows_the_students_batch_statistics_where_these_move():
    student = build_detector(SETTINGS | {"sequence": {"name": "conformer", "width": 4, "layers": 1, "heads": 2}}, 2)
    student.freeze(["cnn"])
    teacher = copy.deepcopy(student).eval()
    moving = [part for part in student.sequence.modules() if isinstance(part, torch.nn.BatchNorm1d)]
    for norm in (*moving, student.encoders["cnn"].blocks[0].norm):
        norm.running_mean.add_(1.0)
    before = copy.deepcopy(teacher.state_dict())
    update_teacher(teacher, student, 0.9)
    changed = {
        name: value - before[name] for name, value in teacher.state_dict().items() if value.ne(before[name]).any()
    }
    assert len(changed) == len(moving) == 1
    torch.testing.assert_close(*changed.values(), torch.full((4,), 0.1))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_decay_skips_biases_and_norms(name):
    detector = build_detector(SETTINGS, 2)
    before = {key: value.clone() for key, value in detector.named_parameters()}
    optimizer = build_optimizer(
        detector, {"name": name, "lr": {"head": 0.1, "cnn": 0.1}, "layer_decay": {}, "weight_decay": 0.5}
    )
    for parameter in detector.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in detector.named_parameters():
        spared = value.dim() <= 1
        assert value.equal(before[key]) == spared, key
    assert any("norm" in key for key in before) and any(key.endswith("bias") for key in before)


@pytest.mark.parametrize(
    ("family", "settings", "spared"),
    [
        ("encoders", {"name": "beats", "dim": 16, "depth": 1, "heads": 2}, {"weight_g", "grep_a"}),
        ("encoders", {"name": "atst", "dim": 16, "depth": 1, "heads": 2}, {"pos_embed"}),
        (
            "encoders", {"name": "passt", "dim": 16, "depth": 1, "heads": 2},
            {"cls_token", "dist_token", "new_pos_embed", "freq_new_pos_embed", "time_new_pos_embed"},
        ),
        ("sequence", {"name": "tcn", "width": 8}, {"original0"}),
        ("sequence", {"name": "conformer", "width": 16}, set()),
        ("sequence", {"name": "bigru", "width": 8}, set()),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_gains_positions_and_tokens_never_decay_and_every_matrix_does(family, settings, spared):
    part = build_encoder(settings) if family == "encoders" else plugins.build("sequence", settings, 16)
    never = never_decay(part)
    wide = {name: p for name, p in part.named_parameters() if p.dim() > 1 and p.requires_grad}
    still = {name for name, p in wide.items() if id(p) in never and not name.endswith("relative_attention_bias.weight")}
    assert {name.rpartition(".")[2] for name in still} == spared
    assert all(id(p) in never for p in part.parameters() if p.dim() <= 1)
    assert settings["name"] != "beats" or id(part.embedding.relative_attention_bias.weight) in never
    assert len(still) < len(wide)


def test_parameters_that_no_score_depends_on_are_frozen_and_no_others():
    settings = SETTINGS | {"encoders": [{"name": "atst", "dim": 16, "depth": 1, "heads": 2}]}
    detector = build_detector(settings, 2)
    detector.encoders["atst"].register_parameter("left_over", torch.nn.Parameter(torch.zeros(3)))
    trained = {name for name, p in detector.named_parameters() if p.requires_grad}
    statistics = copy.deepcopy(dict(detector.named_buffers()))
    assert freeze_unused(detector.train()) == ["encoders.atst.left_over"]
    assert {name for name, p in detector.named_parameters() if p.requires_grad} == trained - {"encoders.atst.left_over"}
    assert detector.training
    assert all(value.equal(statistics[name]) for name, value in detector.named_buffers())
    # what is left has a gradient in every step
    scores = detector(torch.rand(2, 16000), {}, detector.grid.frames(1.0))
    (scores.strong_logits.sum() + scores.weak.sum()).backward()
    assert not [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]


def test_a_frozen_encoder_counts_as_given():
    detector = build_detector(SETTINGS, 2)
    detector.freeze(["cnn"])
    assert freeze_unused(detector) == []
    assert isinstance(detector, Detector)


class Numbered:
    """Batches of clips that are named after their position."""

    def __init__(self):
        self.shares = {"strong": 4, "weak": 2}

    def rows(self, number):
        return [Row(f"{source}-{number}-{k}", source) for source, share in self.shares.items() for k in range(share)]


def test_processes_share_every_source_of_a_batch_and_no_clip_twice():
    whole = Numbered()
    parts = [Share(whole, process, 2) for process in range(2)]
    for number in range(3):
        rows = [part.rows(number) for part in parts]
        assert sorted(row.clip for of_one in rows for row in of_one) == sorted(row.clip for row in whole.rows(number))
        assert [[row.source for row in of_one] for of_one in rows] == [["strong", "strong", "weak"]] * 2
