"""Training in fp16, for real: gradients are scaled, steps that overflow are skipped, and what happened is said."""

import csv

import pytest
import torch
import training_run
from safetensors.torch import load_file

from sedflow.learner import TrainingStopped

LOSS = {"name": "supervised"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    training_run.prepare(folder)
    training_run.cache(folder)
    return folder


def run(root, folder, **changes):
    """Train the frozen stage in fp16; returns its learning curve and its tensors."""
    changes = {"augment": [], "precision": "fp16", **changes}
    training_run.run(root, "frozen", 1, folder / "work", folder / "out", **changes)
    rows = list(csv.DictReader((folder / "out/log.csv").open()))
    return [{key: float(value) for key, value in row.items()} for row in rows], load_file(
        folder / "out/best.safetensors"
    )


def test_fp16_learns_as_float32_does(root, tmp_path):
    full, half = (run(root, tmp_path / name, precision=name, detector={"dropout": 0.0})[0] for name in ("32", "fp16"))
    assert [row["lr/head"] for row in half] == [row["lr/head"] for row in full]
    assert [row["train/loss"] for row in half] == pytest.approx([row["train/loss"] for row in full], rel=0.02)
    assert half != full and half[-1]["train/supervised"] < half[0]["train/supervised"]
    assert all(row["train/skipped_steps"] == 0 for row in half) and "train/skipped_steps" not in full[0]


def test_steps_that_overflow_are_skipped_and_schedules_go_on(root, tmp_path, caplog):
    usual, _ = run(root, tmp_path / "usual")
    curve, tensors = run(root, tmp_path / "loud", losses=[LOSS | {"weight": 1e4}])
    skipped = [row["train/skipped_steps"] for row in curve]
    assert skipped[0] == 1.0 and skipped[-1] < 1.0  # the scale falls until gradients fit
    assert "step 0 is skipped: its gradient, scaled by 65536, overflows fp16" in caplog.text
    assert [(row["step"], row["lr/head"]) for row in curve] == [(row["step"], row["lr/head"]) for row in usual]
    assert curve[-1]["train/supervised"] < curve[0]["train/supervised"]
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_skipped_step_leaves_every_weight_alone(root, tmp_path):
    one_step = {"steps": 1, "validate_every": 1}
    optimizer = {"warmup_steps": 0, "schedule": "constant"}
    _, made = run(root, tmp_path / "made", **one_step, optimizer=optimizer)
    _, skipped = run(root, tmp_path / "skipped", **one_step, optimizer=optimizer, losses=[LOSS | {"weight": 1e9}])
    _, still = run(root, tmp_path / "still", **one_step, optimizer=optimizer | {"lr": {"head": 1e-30}})
    same = lambda one, other: torch.allclose(one.double(), other.double(), rtol=0, atol=1e-20)  # noqa: E731
    assert all(same(skipped[name], tensor) for name, tensor in still.items())
    assert not all(same(made[name], tensor) for name, tensor in still.items())


def test_gradients_that_stay_no_numbers_stop_the_run(root, tmp_path):
    message = r"step \d+: the gradient is not finite\. Sources .*clips \["
    with pytest.raises(TrainingStopped, match=message):
        run(root, tmp_path, losses=[LOSS | {"weight": 1e30}], steps=24, validate_every=24)


def test_a_run_that_is_taken_up_again_keeps_its_scale(root, tmp_path):
    run(root, tmp_path, losses=[LOSS | {"weight": 1e4}])
    (last,) = (tmp_path / "work").glob("*/last.ckpt")
    assert torch.load(last, weights_only=True)["MixedPrecision"]["scale"] < 65536
