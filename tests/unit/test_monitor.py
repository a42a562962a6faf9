"""What decides which weights are kept."""

import pytest
import torch
from test_learner import batch_of, learner_of

from sedflow.learner import Learner
from sedflow.monitor import clip_errors, monitored
from sedflow.params import Monitor

METRICS = {
    "student": {"psds1": 0.3, "psds2": 0.5, "bce": 0.2, "step": 40},
    "teacher": {"psds1": 0.5, "psds2": 0.4, "bce": 0.1, "step": 40},
}


@pytest.mark.parametrize(
    ("how", "value"),
    [
        ({}, 0.45),
        ({"network": "student"}, 0.4),
        ({"network": "either", "metrics": ["psds2"]}, 0.5),
        ({"network": "teacher", "metrics": ["bce"]}, -0.1),
        ({"network": "either", "metrics": ["bce"]}, -0.1),
        ({"metrics": ["step"]}, 40),
    ],
)
def test_a_validation_counts_what_the_page_says(how, value):
    assert monitored(Monitor.model_validate(how).model_dump(), METRICS) == pytest.approx(value)


def test_the_error_of_a_clip_is_that_of_its_own_frames_and_known_classes():
    batch = batch_of()
    batch.valid[1, 8:] = False
    batch.known[2, 1] = False
    logits = torch.zeros(3, 16, 2)
    logits[1, 8:] = logits[2, :, 1] = 50.0
    assert clip_errors(logits, batch) == pytest.approx([0.693147] * 3, abs=1e-5)


@pytest.mark.parametrize("metric", ["bce", "step"])
def test_the_monitor_of_a_stage_reaches_the_learning_curve(monkeypatch, metric):
    learner = learner_of(monitor={"network": "teacher", "metrics": [metric]})
    monkeypatch.setattr(Learner, "log", lambda *_, **__: None)
    monkeypatch.setattr(Learner, "log_dict", lambda *_, **__: None)
    monkeypatch.setattr(Learner, "global_step", 7)
    learner.judge = lambda scores: {"psds1": 0.0, "psds2": 0.0}
    learner._over_processes, learner._joined = lambda value: value, lambda of_clips: of_clips
    learner.optimizers = lambda: torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": "head"}], 0.1
    )
    batch = batch_of()
    for clip in batch.clips:
        learner.clips.clips[clip] = next(iter(learner.clips.clips.values()))
    learner.on_validation_epoch_start()
    with torch.no_grad():
        learner.validation_step(batch, 0)
    learner.on_validation_epoch_end()
    (row,) = learner.history
    assert row["validation/monitor"] == {"bce": -row["validation/teacher/bce"], "step": 7}[metric]
    assert 0 < row["validation/student/bce"] < 5 and "validation/teacher/step" not in row
