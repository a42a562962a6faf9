"""Training as a user sees it: real soundscapes in, a detector out; equal when repeated, equal when killed."""

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import training_run
from safetensors.torch import load_file

from sedflow import audio
from sedflow.events import read_clips
from sedflow.inference import score_folder, score_splits
from sedflow.learner import TrainingStopped
from sedflow.scores import load_scores
from sedflow.specification import read_specification
from sedflow.train import build_networks
from sedflow.weights import CheckpointError

RESULTS = ("best.safetensors", "log.csv", "settings.json")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    training_run.prepare(folder)
    training_run.cache(folder)
    return folder


@pytest.fixture(scope="module")
def frozen(root, tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("frozen")
    training_run.run(root, "frozen", 1, work / "work", work / "out")
    return work / "out"


@pytest.fixture(scope="module")
def finetuned(root, frozen, tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("finetune")
    training_run.run(root, "finetune", 1, work / "work", work / "out", frozen / "best.safetensors")
    return work / "out"


def same_results(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in RESULTS)


def test_a_run_leaves_a_detector_a_curve_and_its_settings(frozen):
    rows = list(csv.DictReader((frozen / "log.csv").open()))
    assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    assert float(rows[-1]["train/supervised"]) < float(rows[0]["train/supervised"])
    assert read_specification(frozen / "best.safetensors").networks == ["student", "teacher"]


def test_one_seed_twice_is_equal_with_any_number_of_loader_processes_and_two_seeds_differ(root, frozen, tmp_path):
    training_run.run(root, "frozen", 1, tmp_path / "work", tmp_path / "again", workers=2)
    assert (tmp_path / "again" / "log.csv").read_bytes() == (frozen / "log.csv").read_bytes()
    training_run.run(root, "frozen", 2, tmp_path / "work2", tmp_path / "other")
    assert (tmp_path / "other" / "log.csv").read_bytes() != (frozen / "log.csv").read_bytes()


def test_accumulation_changes_the_batch_and_no_schedule(root, frozen, tmp_path):
    training_run.run(root, "frozen", 1, tmp_path / "work", tmp_path / "out", accumulate=2)
    one, two = (list(csv.DictReader((folder / "log.csv").open())) for folder in (frozen, tmp_path / "out"))
    assert [(row["step"], row["lr/head"]) for row in one] == [(row["step"], row["lr/head"]) for row in two]
    assert one[-1]["train/loss"] != two[-1]["train/loss"]
    # waiting for data is in the log of the work folder, not in the curve, which repeats bit for bit
    assert "train/waiting" in next((tmp_path / "work").glob("*/csv/metrics.csv")).read_text().splitlines()[0]
    assert "train/waiting" not in two[0]


def test_fine_tuning_changes_the_encoder_and_the_frozen_stage_does_not(frozen, finetuned):
    from safetensors.torch import load_file

    import sedflow.detector

    first, second = load_file(frozen / "best.safetensors"), load_file(finetuned / "best.safetensors")
    untouched = sedflow.detector.build_encoder(training_run.PAGE["detector"]["encoders"][0])
    for name, value in untouched.state_dict().items():
        assert value.equal(first[f"student.encoders.mobilenet.{name}"]), name
    moved = [key for key in first if "encoders" in key and key.endswith("weight") and not first[key].equal(second[key])]
    assert moved


# moments and how often they come before the kill; None: after so many seconds, too few for what is left on any machine
MOMENTS = [
    ("in a step", 5), ("while a checkpoint is written", 1), ("in validation", 2), (None, 0.6), ("after a step", 2),
    ("while a checkpoint is written", 2), ("while the results are written", 1), ("between stages", 1), (None, 0.3),
    ("in validation", 1), ("in a step", 4), ("while the results are written", 1),
]  # fmt: skip


def test_a_run_killed_at_ten_moments_ends_with_equal_bytes(root, frozen, finetuned, tmp_path):
    # forked from a process that has imported everything, so that a start costs nothing
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sedflow.train", "sedflow.evaluation", "tensorboard"])
    kills = 0
    for moment, count in [*MOMENTS, (None, 300)]:
        process = context.Process(target=training_run.run_both, args=(root, tmp_path, moment, count))
        process.start()
        process.join(count if moment is None else 300)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, f"{moment}: {process.exitcode}"
        kills += 1
    assert kills >= 10
    assert same_results(tmp_path / "frozen", frozen)
    assert same_results(tmp_path / "finetune", finetuned)


def test_two_processes_give_what_one_gives_even_when_they_are_killed_on_the_way(root, tmp_path):
    # without dropout and mixing, whose draws are each process' own; validation counts clips and adds up scores
    changes = {"augment": [], "detector": {"dropout": 0.0}, "counting": True}
    training_run.run(root, "frozen", 1, tmp_path / "work1", tmp_path / "one", **changes)
    command = [sys.executable, training_run.__file__, root, "frozen", "1", tmp_path / "work2", tmp_path / "two", "-"]
    command = [*map(str, command), json.dumps(changes | {"processes": 2})]
    process = subprocess.Popen(command, start_new_session=True)
    wait_for(lambda: list((tmp_path / "work2").glob("*/last.ckpt")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "two").exists()
    subprocess.run(command, check=True, timeout=300)
    assert_equal_but_for_rounding(tmp_path / "one", tmp_path / "two")


def test_two_processes_fine_tune_as_one_does_batch_norms_included(root, frozen, tmp_path):
    changes = {"augment": [], "dropout": {"head": 0.0}, "counting": True}
    changes |= {"sources": {"synthetic_strong": 4, "weak": 2, "unlabeled": 2}, "steps": 4}
    start = frozen / "best.safetensors"
    training_run.run(root, "finetune", 1, tmp_path / "work1", tmp_path / "one", start, **changes)
    command = [
        sys.executable,
        training_run.__file__,
        root,
        "finetune",
        "1",
        tmp_path / "work2",
        tmp_path / "two",
        start,
    ]
    command = [*map(str, command), json.dumps(changes | {"processes": 2})]
    subprocess.run(command, check=True, timeout=300)
    # these are seen by other norms alone, which take them away: their gradients are rounding, of which Adam makes steps
    idle = r"mobilenet\.features\.\d+\.block\.[23]\.1\.bias"
    assert_equal_but_for_rounding(tmp_path / "one", tmp_path / "two", 4e-4, idle)
    before, after = load_file(start), load_file(tmp_path / "two" / "best.safetensors")
    statistics = [name for name in after if name.startswith("student.encoders") and "running" in name]
    assert statistics and not any(after[name].equal(before[name]) for name in statistics)


def assert_equal_but_for_rounding(one: Path, two: Path, within: float = 1e-4, idle: str = "nothing") -> None:
    """Learning curves and weights of two runs; steps of the ``idle`` weights are of the size of the learning rate."""
    curves = [np.genfromtxt(folder / "log.csv", delimiter=",", names=True) for folder in (one, two)]
    assert curves[0].dtype.names == curves[1].dtype.names
    for column in curves[0].dtype.names:
        np.testing.assert_allclose(curves[1][column], curves[0][column], rtol=2e-4, atol=1e-6, err_msg=column)
    assert set(curves[1]["validationstudentclips"]) == {4}
    weights = [load_file(folder / "best.safetensors") for folder in (one, two)]
    for name, tensor in weights[0].items():
        atol = 5e-3 if re.search(idle, name) else within
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=atol, msg=name)


@pytest.mark.parametrize(("dropout", "classes"), [(0.1, None), (0.2, ["beep"])])
def test_a_stage_goes_on_with_its_own_detector_alone(frozen, tmp_path, dropout, classes):
    settings = training_run.settings("finetune", detector={"dropout": dropout})
    before = read_specification(frozen / "best.safetensors")
    message = rf"best\.safetensors: its {'classes' if classes else 'dropout'} is .*; train the previous stage again"
    with pytest.raises(CheckpointError, match=message):
        build_networks(settings, classes or before.classes, {}, frozen / "best.safetensors")


def test_a_work_folder_that_was_moved_still_knows_what_was_best(root, tmp_path):
    """A repository that is renamed, or mounted elsewhere, before the run goes on."""
    training_run.run(root, "frozen", 1, tmp_path / "work", tmp_path / "out", counting=True)
    (tmp_path / "work").rename(tmp_path / "moved")
    training_run.run(root, "frozen", 1, tmp_path / "moved", tmp_path / "again", counting=True)
    assert same_results(tmp_path / "out", tmp_path / "again")


def test_a_run_that_is_told_to_end_has_not_succeeded(root, tmp_path):
    changes = json.dumps({"counting": True, "steps": 3000})
    command = [sys.executable, training_run.__file__, root, "frozen", "1", tmp_path / "work", tmp_path / "out", "-"]
    process = subprocess.Popen([*map(str, command), changes])
    wait_for(lambda: list((tmp_path / "work").glob("*/last.ckpt")), process)
    process.terminate()
    assert process.wait(300) == 128 + signal.SIGTERM
    assert not (tmp_path / "out").exists()


def wait_for(happened, process, seconds=300):
    end = time.monotonic() + seconds
    while not happened() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)


def test_validation_and_scoring_from_audio_agree(root, frozen, tmp_path):
    # the frozen stage validated from fp16 features, scoring goes through the audio: one function, equal frames
    score_splits(frozen / "best.safetensors", [root / "data/manifests/demo"], ["validation"], tmp_path, "student", root)
    scores = load_scores(tmp_path / "validation_student.parquet")
    assert len(scores) == 4
    assert all(of_clip.values.shape == (100, 6) for of_clip in scores.values())


def test_recordings_of_any_length_and_rate_are_scored(root, frozen, tmp_path):
    rng = np.random.default_rng(0)
    for name, seconds, rate in (("short", 0.3, 44100), ("odd", 5.03, 22050), ("long", 21.7, 8000)):
        audio.write(tmp_path / "in" / f"{name}.flac", rng.uniform(-0.3, 0.3, round(seconds * rate)).astype("f4"), rate)
    scores = score_folder(tmp_path / "in", frozen / "best.safetensors", tmp_path / "out.parquet")
    assert {clip: len(of_clip.values) for clip, of_clip in scores.items()} == {"short": 8, "odd": 126, "long": 543}
    assert scores["odd"].seconds == pytest.approx(5.03, abs=1e-3)
    assert all(np.isfinite(of_clip.values).all() for of_clip in scores.values())


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_clips(root, tmp_path):
    broken = {"lr": {"head": 1e30}, "clip_norm": None}
    with pytest.raises(TrainingStopped, match=r"step \d+: .*(is (nan|inf|-inf)|not finite)\. Sources .*clips \['"):
        training_run.run(root, "frozen", 1, tmp_path / "work", tmp_path / "out", optimizer=broken)
    assert not (tmp_path / "out").exists()


def test_a_broken_clip_is_named_and_the_last_good_checkpoint_stays(root, tmp_path):
    shutil.copytree(root, tmp_path / "root")
    file = tmp_path / "root/data/features/mobilenet/demo/unlabeled-0.npy"
    stored = np.load(file)
    clips = sorted(clip.id for clip in read_clips(root / "data/manifests/demo/clips.tsv") if clip.source == "unlabeled")
    stored[2] = np.nan
    np.save(file, stored)
    message = rf"step (\d+): the student's score is nan\. Sources \['unlabeled'\], clips \['{clips[2]}'\]"
    with pytest.raises(TrainingStopped, match=message) as stopped:
        training_run.run(
            tmp_path / "root", "frozen", 4, tmp_path / "work", tmp_path / "out", augment=[], validate_every=1,
            sources={"unlabeled": 1},
        )  # fmt: skip
    step = int(re.search(r"step (\d+)", str(stopped.value))[1])
    assert step > 0, "choose another seed: the broken clip came first"
    (last,) = (tmp_path / "work").glob("*/last.ckpt")
    kept = torch.load(last, weights_only=True)
    assert kept["global_step"] == step
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
