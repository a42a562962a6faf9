"""Waveforms around an encoder: what is refused, how long clips are read in windows, where official tensors stand."""

import itertools

import pytest
import torch

from sedflow.frames import FrameGrid
from sedflow.official import module_tensors
from sedflow.waveform import checked, completed, in_windows, padded
from sedflow.weights import CheckpointError

RATE = 1000


def loudness(grid, rate):
    """An encoder that cannot be wrong: each frame is the mean of its samples; it is told how many frames to give."""

    def encode(waveform, frames):
        edges = [round(frame * rate * grid.hop_seconds) for frame in range(frames + 1)]
        means = [waveform[:, left:right].mean(dim=1) for left, right in itertools.pairwise(edges)]
        return torch.stack(means, dim=1).nan_to_num().unsqueeze(2)

    return encode


@pytest.mark.parametrize("frame_rate", [25.0, 15.6, 15.625, 6.25])
@pytest.mark.parametrize("seconds", [10.7, 11.0, 17.501, 20.0, 60.0])
def test_windows_keep_time_and_cover_the_clip(frame_rate, seconds):
    grid = FrameGrid(frame_rate)
    waveform = torch.linspace(0, 1, round(seconds * RATE)).repeat(2, 1)
    encode = loudness(grid, RATE)
    frames = grid.frames(seconds)
    embeddings = in_windows(encode, waveform, RATE, grid, grid.frames(10.0))
    assert embeddings.shape == (2, frames, 1)
    whole = encode(waveform, frames)
    # where windows start between two samples, a frame may hold a sample more or less
    torch.testing.assert_close(embeddings[:, :-1], whole[:, :-1], rtol=0, atol=2 / waveform.shape[1])


def test_overlapping_windows_hand_over_smoothly():
    grid, reach = FrameGrid(10.0), 10
    numbers = iter(range(100))

    def encode(waveform, frames):
        return torch.full((1, frames, 1), float(next(numbers)))

    values = in_windows(encode, torch.zeros(1, 2 * RATE), RATE, grid, reach)[0, :, 0]
    assert values[0] == 0 and values[-1] == values.max()
    assert (values.diff() >= 0).all() and values.diff().max() < 0.5


def test_a_clip_is_padded_and_completed_only_where_it_is_short():
    waveform = torch.ones(2, 10)
    assert padded(waveform, 8).shape == (2, 10)
    assert torch.equal(padded(waveform, 12)[:, 10:], torch.zeros(2, 2))
    embeddings = torch.arange(6.0).reshape(1, 3, 2)
    assert completed(embeddings, 3) is embeddings
    assert torch.equal(completed(embeddings, 4)[0, 3], embeddings[0, 2])


@pytest.mark.parametrize(
    ("waveform", "complaint"),
    [
        (torch.zeros(10), r"\(batch, samples\).*got \(10,\)"),
        (torch.zeros(1, 0), "with samples in it"),
        (torch.zeros(0, 10), "with samples in it"),
        (torch.zeros(1, 10, dtype=torch.int16), "divide PCM samples by their full scale"),
        (torch.tensor([[0.0, 1.0], [0.0, float("inf")]]), r"clip 1 of the batch is inf at sample 1 \(0\.001 s\)"),
        (torch.tensor([[float("nan")]]), "repair the recording"),
        (torch.zeros(1, 1).expand(1, 3 * 3600 * RATE), "10800 s of audio in one piece"),
    ],
)
def test_a_waveform_that_is_none_is_refused_with_the_cure(waveform, complaint):
    with pytest.raises(ValueError, match=complaint):
        checked(waveform, RATE)


def test_a_waveform_of_another_precision_becomes_float32():
    assert checked(torch.zeros(1, 4, dtype=torch.float64), RATE).dtype == torch.float32


def test_a_module_is_found_under_any_prefix_and_the_rest_is_named():
    content = {
        "state_dict": {"a.b.weight": torch.ones(1), "a.b.bias": torch.ones(1), "head.weight": torch.ones(1)},
        "epoch": 1,
    }
    tensors, others = module_tensors(content, "weight", "file.pt", without=("head.",))
    assert sorted(tensors) == ["bias", "weight"]
    assert others == ["state_dict.head.weight"]


def test_the_network_asked_for_is_taken_and_no_other():
    content = {role: {"conv.weight": torch.full((1,), float(role == "teacher"))} for role in ("student", "teacher")}
    for role in content:
        tensors, others = module_tensors(content, "conv.weight", "file.pt", network=role)
        assert tensors["conv.weight"] == float(role == "teacher")
        assert len(others) == 1
    with pytest.raises(CheckpointError, match=r"no teacher in it, only student\."):
        module_tensors({"student": content["student"]}, "conv.weight", "file.pt")
    with pytest.raises(CheckpointError, match=r"no tensor conv\.weight in it; is it another encoder"):
        module_tensors({"epoch": 3}, "conv.weight", "file.pt")
