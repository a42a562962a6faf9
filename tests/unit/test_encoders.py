"""What every encoder in the folder holds, and the reading of weights that they share."""

import copy
import functools
import math

import pytest
import torch
from safetensors.torch import save_file

from sedflow import plugins
from sedflow.frames import FrameGrid
from sedflow.official import part_of
from sedflow.weights import CheckpointError, load_strict

NAMES = plugins.names("encoders")
# where an encoder has such a setting, it is tested at this size
SMALL = {"width": 0.4, "layers": 2, "depth": 2, "dim": 96, "heads": 4}


@functools.cache
def small_encoder(name):
    settings = {key: value for key, value in SMALL.items() if key in plugins.settings_of("encoders", name)}
    torch.manual_seed(0)
    return plugins.build("encoders", {"name": name, **settings})


@pytest.fixture(params=NAMES)
def encoder(request):
    encoder = small_encoder(request.param)
    encoder.zero_grad()
    return encoder.eval()


def noise(encoder, clips, seconds, seed=0):
    samples = round(seconds * encoder.sample_rate)
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("seconds", [0.1, 0.37, 1.0, 2.0031, 9.99, 10.0, 10.25, 30.0])
def test_frames_are_what_the_grid_predicts(encoder, seconds):
    waveform = noise(encoder, 1, seconds)
    frames = FrameGrid(encoder.frame_rate).frames(waveform.shape[1] / encoder.sample_rate)
    embeddings = encoder(waveform)
    assert embeddings.shape == (1, frames, encoder.dim)
    assert embeddings.isfinite().all()


@torch.no_grad()
def test_batch_mates_do_not_change_a_clip(encoder):
    clip = noise(encoder, 1, 2.0)
    alone = encoder(clip)
    for loudness in (0.0, 1e-4, 10.0):
        among = encoder(torch.cat([clip, loudness * noise(encoder, 2, 2.0, seed=1)]))
        torch.testing.assert_close(among[:1], alone, rtol=1e-4, atol=1e-4)


def test_gradient_reaches_the_first_layer(encoder):
    encoder(noise(encoder, 2, 1.0)).square().mean().backward()
    first = [parameter for parameter in encoder.layers()[0].parameters() if parameter.requires_grad]
    assert first
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in first)


def test_layers_hold_every_trainable_parameter_once(encoder):
    held = [id(parameter) for layer in encoder.layers() for parameter in layer.parameters() if parameter.requires_grad]
    trainable = [id(parameter) for parameter in encoder.parameters() if parameter.requires_grad]
    assert sorted(held) == sorted(trainable)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["silent", "loud", "clipped", "one click"])
def test_half_precision_stays_finite(encoder, kind):
    waveform = noise(encoder, 1, 1.0)
    if kind == "clipped":
        waveform = (100 * waveform).clamp(-1, 1)
    elif kind == "loud":
        waveform = 1000 * waveform
    else:
        waveform = torch.zeros_like(waveform)
        waveform[0, 100] = float(kind == "one click")
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(waveform).isfinite().all()


def test_overfits_a_tiny_batch(encoder):
    torch.manual_seed(0)
    pupil = copy.deepcopy(encoder).train()
    seconds = torch.arange(pupil.sample_rate // 2) / pupil.sample_rate
    tones = 0.1 * torch.stack([torch.sin(2 * math.pi * hz * seconds) for hz in (300, 1000, 2500, 6000)])
    wanted = torch.tensor([0.0, 1.0, 1.0, 0.0])
    # the reading stays as it was drawn: only the encoder can learn
    reading = 2 * torch.nn.functional.normalize(torch.randn(1, pupil.dim))
    optimizer = torch.optim.Adam([weight for weight in pupil.parameters() if weight.requires_grad], lr=3e-4)
    losses = []
    for _ in range(30):
        logits = (pupil(tones) @ reading.T).mean(dim=(1, 2))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.4 * losses[0], losses  # the least of five: dropout moves single steps


@torch.no_grad()
def test_a_waveform_that_is_none_is_refused_with_the_reason(encoder):
    damaged = noise(encoder, 2, 0.5)
    damaged[1, 100] = float("nan")
    reasons = {
        "with samples in it": torch.zeros(1, 0),
        "clip 1 .* nan": damaged,
        "full scale": torch.zeros(1, 1000, dtype=torch.int16),
        "cut it": torch.zeros(1, 1).expand(1, 3 * 3600 * encoder.sample_rate),
    }
    for reason, waveform in reasons.items():
        with pytest.raises(ValueError, match=reason):
            encoder(waveform)


def test_another_networks_weights_are_refused(encoder, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"other\.safetensors"):
        encoder.load_official(path)


def test_every_misfit_is_listed_and_nothing_is_loaded():
    module = torch.nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(CheckpointError) as refusal:
        load_strict(module, {"weight": torch.zeros(2, 2), "gain": torch.zeros(1)}, "file.pt")
    message = str(refusal.value)
    for part in ("file.pt", "1 missing: bias", "1 unexpected: gain", "weight (2, 2) instead of (3, 2)"):
        assert part in message
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_whole_numbers_are_not_taken_for_weights(dtype):
    module = torch.nn.BatchNorm1d(3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"1 of another type: weight {dtype} instead of torch.float32"):
        load_strict(module, before | {"weight": torch.ones(3).to(dtype)}, "file.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    for half in (torch.float16, torch.bfloat16, torch.float64):
        load_strict(module, before | {"weight": torch.full((3,), 2, dtype=half)}, "file.pt")
        assert module.weight.tolist() == [2, 2, 2] and module.weight.dtype == torch.float32
    load_strict(module, before | {"num_batches_tracked": torch.tensor(7.0)}, "file.pt")  # a moving average of it
    assert module.num_batches_tracked == 7


def test_a_part_is_found_behind_wrappers_names_only():
    tensors = {"net.model.features.0.weight": 1, "features.1.weight": 2, "other.features.2.weight": 3}
    assert part_of(tensors, "features") == {"0.weight": 1, "1.weight": 2}
