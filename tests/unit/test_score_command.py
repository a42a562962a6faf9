"""``sedflow score``: the network that is asked for, what cannot be asked together, and where scores may be written."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
import typer

from sedflow import audio, cli, inference, postprocess
from sedflow.detector import build_detector
from sedflow.inference import score_folder, score_splits
from sedflow.scores import ScoreError, load_scores
from sedflow.specification import Specification, load_detector, save_detectors
from sedflow.weights import CheckpointError

CLASSES = ["dog", "bell"]
DETECTOR = {
    "encoders": [{"name": "mobilenet", "width": 0.4}],
    "sequence": {"name": "bigru", "width": 8},
    "frame_rate": 25.0,
    "pooling": "attention",
    "dropout": 0.1,
    "merge_dim": 16,
    "merge_norm": True,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A training checkpoint: a student and another network, its teacher."""
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    networks = {}
    for seed, name in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        networks[name] = build_detector(DETECTOR, len(CLASSES)).eval()
    inference = {"window_seconds": 2.0, "hop_seconds": 1.0, "batch": 2}
    specification = Specification("s", "frozen", CLASSES, 16000, 25.0, 2.0, DETECTOR, inference, [*networks], 1, 1)
    save_detectors(path, networks, specification)
    return path


@pytest.fixture
def recordings(tmp_path):
    for name in ("one", "two"):
        noise = np.random.default_rng(len(name)).normal(0, 0.1, 16000).astype(np.float32)
        audio.write(tmp_path / "recordings" / f"{name}.flac", noise, 16000)
    return tmp_path / "recordings"


def score(*words):
    cli.commands(["score", *map(str, words)], standalone_mode=False)


def test_the_network_that_is_asked_for_scores_a_folder(checkpoint, recordings, tmp_path):
    for name in ("student", "teacher"):
        score(recordings, "--checkpoint", checkpoint, "--out", tmp_path / f"{name}.parquet", "--network", name)
    student, teacher = (load_scores(tmp_path / f"{name}.parquet")["one"].values for name in ("student", "teacher"))
    usual = score_folder(recordings, checkpoint, tmp_path / "usual.parquet")["one"].values
    np.testing.assert_array_equal(teacher, usual)
    assert not np.allclose(student, teacher)
    with pytest.raises(CheckpointError, match=r"no network 'pupil', it holds \['student', 'teacher'\]"):
        score_folder(recordings, checkpoint, tmp_path / "odd.parquet", network="pupil")


def test_detections_that_are_printed_can_be_piped(checkpoint, recordings):
    command = [sys.executable, "-m", "sedflow.cli", "detect", str(recordings / "one.flac"), "--checkpoint"]
    done = subprocess.run([*command, str(checkpoint)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("onset\toffset\tevent_label\n")
    assert "scoring one.flac" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recordings", "--manifests", "data/manifests/demo"], "not both"),
        (["--manifests", "data/manifests/demo", "--network", "student", "--raw"], "--raw is for a folder"),
        (["--manifests", "data/manifests/demo"], "--manifests and --network"),
        (["--network", "student"], "give a folder of audio"),
    ],
)
def test_options_that_say_nothing_together_are_refused(words, said):
    with pytest.raises(typer.BadParameter, match=said):
        score(*words, "--checkpoint", "c.safetensors", "--out", "s")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("taken", "taken: a file where a folder is needed"),
        ("taken/scores", "taken: a file where a folder is needed"),
        ("taken/set.parquet", "taken: a file where a folder is needed"),
        ("folder.parquet", r"folder\.parquet: a folder; name a file"),
        ("others", r"others: 1 \.tsv files of other clips are here, e\.g\. \['three\.tsv'\]"),
    ],
)
def test_where_scores_cannot_go_is_told_before_anything_is_read(recordings, tmp_path, out, said):
    (tmp_path / "taken").touch()
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "others").mkdir()
    for name in ("one", "three"):
        (tmp_path / "others" / f"{name}.tsv").touch()
    with pytest.raises(ScoreError, match=said):  # not that there is no such checkpoint
        score_folder(recordings, tmp_path / "nowhere.safetensors", tmp_path / out)
    if out.startswith("taken"):
        with pytest.raises(ScoreError, match=said):
            score_splits(tmp_path / "nowhere.safetensors", [], ["test"], tmp_path / out, "student")
    assert (tmp_path / "others/three.tsv").is_file()


def test_all_recordings_that_cannot_be_read_are_told_before_a_detector_is(recordings, tmp_path):
    (recordings / "empty.wav").touch()
    (recordings / "text.wav").write_text("hello")
    with pytest.raises(audio.AudioError, match=r"2 recordings cannot be used:\n.*empty\.wav.*\n.*text\.wav"):
        score_folder(recordings, tmp_path / "nowhere.safetensors", tmp_path / "scores.parquet")
    assert not (tmp_path / "scores.parquet").exists()


@pytest.mark.parametrize("out", ["x" * 244 + ".parquet", "new/" + "x" * 244 + ".parquet"])
def test_a_file_that_cannot_be_made_is_told_before_a_detector_is_read(recordings, tmp_path, out):
    with pytest.raises(OSError, match="name too long"):  # of the unfinished file beside it
        score_folder(recordings, tmp_path / "nowhere.safetensors", tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["recordings"]


def test_what_is_scored_stays_when_a_later_recording_fails(checkpoint, recordings, tmp_path, monkeypatch):
    def broken(path, *args):
        if path.stem == "zoo":
            raise KeyboardInterrupt
        return read(path, *args)

    read = audio.read
    audio.write(recordings / "zoo.flac", np.ones(16000, np.float32) / 2, 16000)
    first = score_folder(recordings, checkpoint, tmp_path / "scores", network="student")
    monkeypatch.setattr(audio, "read", broken)
    with pytest.raises(KeyboardInterrupt):
        score_folder(recordings, checkpoint, tmp_path / "scores")
    # what an earlier detector said of the others is gone: a mixture would pass for the scores of one
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["one.tsv"]
    assert not np.allclose(load_scores(tmp_path / "scores")["one"].values, first["one"].values)


@pytest.fixture
def tuned(checkpoint, tmp_path):
    """A finished detector with post-processing."""
    detector, specification = load_detector(checkpoint, "student")
    settings = {"dog": {"frames": 7}, "bell": {"frames": 15}}
    finished = dataclasses.replace(
        specification, networks=["student"], postprocess={"name": "frame_median_filter", "settings": settings}
    )
    save_detectors(tmp_path / "detector.safetensors", {"student": detector}, finished)
    return tmp_path / "detector.safetensors"


def test_clips_are_postprocessed_together(tuned, recordings, tmp_path, monkeypatch):
    def counted(self, scores):
        together.append(len(scores))
        return apply(self, scores)

    apply, together = postprocess.Postprocess.apply, []
    monkeypatch.setattr(postprocess.Postprocess, "apply", counted)
    score_folder(recordings, tuned, tmp_path / "scores.parquet")
    score_folder(recordings, tuned, tmp_path / "scores")
    assert together == [2, 2]
    raw = score_folder(recordings, tuned, tmp_path / "raw", raw=True)
    assert together == [2, 2]
    monkeypatch.setattr(inference, "_TOGETHER", 1)
    score_folder(recordings, tuned, tmp_path / "one_by_one")
    assert together == [2, 2, 1, 1]
    expected, *others = (load_scores(tmp_path / name) for name in ("scores.parquet", "scores", "one_by_one"))
    for clip, scores in expected.items():
        assert not np.allclose(scores.values, raw[clip].values)
        for other in others:
            np.testing.assert_allclose(other[clip].values, scores.values, atol=1e-6)


def test_a_folder_that_is_scored_again_holds_no_clip_that_is_gone(checkpoint, recordings, tmp_path):
    for _ in range(2):
        score(recordings, "--checkpoint", checkpoint, "--out", tmp_path / "scores")
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["one.tsv", "two.tsv"]
    (recordings / "two.flac").unlink()
    with pytest.raises(ScoreError, match=r"\['two\.tsv'\].*delete them or name another folder"):
        score(recordings, "--checkpoint", checkpoint, "--out", tmp_path / "scores")
    (tmp_path / "scores/two.tsv").unlink()
    score(recordings, "--checkpoint", checkpoint, "--out", tmp_path / "scores")
    assert list(load_scores(tmp_path / "scores")) == ["one"]
