"""An ensemble's opinion: members score a source, the mean of their logits is stored."""

import json

import numpy as np
import pytest
import torch

from sedflow import audio, ensemble
from sedflow.detector import build_detector
from sedflow.events import ClassSet, Clip, write_clips
from sedflow.files import sha256
from sedflow.frames import FrameGrid
from sedflow.pseudo import PseudoLabels
from sedflow.specification import Specification, save_detectors

CLASSES = ["bark", "beep"]
DETECTOR = {
    "encoders": [{"name": "cnn", "channels": [4, 4], "pooling": [[4, 16], [1, 8]]}],
    "sequence": {"name": "bigru", "width": 4, "layers": 1},
    "frame_rate": 15.625,
    "pooling": "attention",
    "dropout": 0.0,
    "merge_dim": None,
    "merge_norm": False,
}


def store(path, logits, classes=CLASSES, member="a", audio_of="x"):
    index = {
        "clips": [[f"clip{k}", f"{audio_of}{k}"] for k in range(len(logits))],
        "classes": classes,
        "frame_rate": 25.0,
        "members": [member],
        "shape": list(logits.shape),
    }
    ensemble.write_logits(path, index, [logits])
    return path


def test_pseudo_labels_are_the_mean_of_the_members_logits_in_their_order(tmp_path):
    rng = np.random.default_rng(1)
    logits = [rng.normal(0, 4, (ensemble.CHUNK + 3, 5, 2)).astype(np.float32) for _ in range(3)]
    members = [store(tmp_path / f"{k}.npy", values, member=f"m{k}") for k, values in enumerate(logits)]
    ensemble.average_logits(members, tmp_path / "out.npy")
    assert np.allclose(np.load(tmp_path / "out.npy"), np.mean(logits, 0), atol=2e-2)
    assert np.load(tmp_path / "out.npy").dtype == np.float16
    index = json.loads((tmp_path / "out.json").read_text())
    assert (index["members"], index["classes"]) == (["m0", "m1", "m2"], CLASSES)
    assert not list(tmp_path.glob("*.part"))


def test_an_ensemble_of_one_is_identity(tmp_path):
    member = store(tmp_path / "a.npy", np.random.default_rng(1).normal(size=(4, 5, 2)).astype(np.float32))
    ensemble.average_logits([member], tmp_path / "out.npy")
    assert (tmp_path / "out.npy").read_bytes() == member.read_bytes()


@pytest.mark.parametrize(
    ("other", "said"), [({"classes": ["beep", "bark"]}, "other classes"), ({"audio_of": "y"}, "other clips")]
)
def test_members_that_scored_something_else_are_refused(tmp_path, other, said):
    logits = np.zeros((4, 5, 2), np.float32)
    members = [store(tmp_path / "a.npy", logits), store(tmp_path / "b.npy", logits, **other)]
    with pytest.raises(ensemble.EnsembleError, match=said):
        ensemble.average_logits(members, tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()


def test_scores_that_are_not_finite_are_refused_with_their_clip_and_leave_no_file(tmp_path):
    logits = np.zeros((4, 5, 2), np.float32)
    logits[2, 3, 1] = np.nan
    with pytest.raises(ensemble.EnsembleError, match="clip2"):
        store(tmp_path / "a.npy", logits)
    assert not (tmp_path / "a.npy").exists()


def test_a_members_logits_are_what_its_detector_says_and_training_reads_them_as_probabilities(tmp_path):
    torch.manual_seed(1)
    detector = build_detector(DETECTOR, len(CLASSES)).eval()
    inference = {"window_seconds": 2.0, "hop_seconds": 1.0, "batch": 2}
    specification = Specification(
        "s", "frozen", CLASSES, 16000, 15.625, 2.0, DETECTOR, inference, ["student"], seed=1, step=1
    )
    save_detectors(tmp_path / "run/best.safetensors", {"student": detector}, specification)
    rng = np.random.default_rng(1)
    clips, waveforms = [], {}
    for name, seconds in (("long", 2.0), ("short", 1.2)):
        path = tmp_path / f"{name}.flac"
        audio.write(path, rng.normal(0, 0.1, round(seconds * 16000)).astype(np.float32), 16000)
        clips.append(Clip(name, f"{name}.flac", seconds, sha256(path), "unlabeled"))
        waveforms[name] = audio.read(path, 16000)
    write_clips(tmp_path / "clips.tsv", clips)
    out = tmp_path / "logits/unlabeled.npy"
    ensemble.score_source(
        tmp_path / "run/best.safetensors", "student", tmp_path / "clips.tsv", "unlabeled", out, tmp_path
    )

    grid = FrameGrid(15.625)
    with torch.inference_mode():
        whole = detector(torch.from_numpy(waveforms["long"])[None], {}, grid.frames(2.0)).strong_logits[0].numpy()
    stored = np.load(out)
    assert stored.shape == (2, grid.frames(2.0), 2)
    assert np.allclose(stored[0], whole, atol=5e-3)
    behind = grid.frames(1.2)
    assert (stored[1, :behind] > ensemble.SILENCE).all() and (stored[1, behind:] == ensemble.SILENCE).all()
    read, known = PseudoLabels([out], ClassSet(tuple(CLASSES)), grid).read(["long", "other"], grid.frames(2.0))
    assert known.tolist() == [True, False]
    assert np.allclose(read[0], 1 / (1 + np.exp(-whole)), atol=2e-3)
