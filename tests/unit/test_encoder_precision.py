"""Encoders in half precision: finite on any audio, close to float32, their front ends untouched."""

import copy
import pickle

import pytest
import torch

from sedflow import plugins
from sedflow.encoders.mobilenet import MobileNet

SMALL = {"depth": 2, "dim": 96, "heads": 4}
NAMES = ("atst", "beats", "cnn", "mobilenet", "passt")
HALVES = (torch.float16, torch.bfloat16)
# least cosine of an embedding of mn04 in bfloat16 to that in float32: silence, of which it says least, moves most
ROUGH = {"silent": 0.93, "barely audible": 0.93, "one click": 0.96}


def published_mobilenet(mirror_dir):
    """The real mn04: an untrained MobileNet says next to nothing, of which rounding is a large part."""
    encoder = MobileNet(width=0.4, front_end="efficientat", strides="dilated")
    encoder.load_official(next(mirror_dir.rglob("mn04*.pt")))
    return encoder.eval()


@pytest.fixture(scope="module", params=NAMES)
def encoder(request, mirror_dir):
    if request.param == "mobilenet":
        return published_mobilenet(mirror_dir)
    settings = {key: value for key, value in SMALL.items() if key in plugins.settings_of("encoders", request.param)}
    torch.manual_seed(0)
    return plugins.build("encoders", {"name": request.param, **settings}).eval()


def recordings(encoder):
    """Audio that has made networks overflow, 2 s each."""
    samples = 2 * encoder.sample_rate
    noise = torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    click = torch.zeros(1, samples)
    click[0, samples // 2] = 1.0
    return {
        "ordinary": 0.1 * noise,
        "silent": torch.zeros(1, samples),
        "one click": click,
        "clipped": (10 * noise).clamp(-1, 1),
        "square wave": torch.sign(torch.sin(torch.arange(samples) * 0.3)).unsqueeze(0),
        "1000 times full scale": 1000 * noise,
        "barely audible": 1e-6 * noise,
        "offset": 0.1 * noise + 0.9,
    }


@torch.no_grad()
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_half_precision_is_finite_and_close(encoder, dtype, way):
    for kind, waveform in recordings(encoder).items():
        exact = encoder(waveform)
        if way == "autocast":
            with torch.autocast("cpu", dtype):
                halved = encoder(waveform)
        else:
            halved = copy.deepcopy(encoder).to(dtype)(waveform)
        assert halved.isfinite().all(), kind
        similarity = torch.cosine_similarity(halved.float(), exact, dim=2)
        rough = dtype == torch.bfloat16 and isinstance(encoder, MobileNet)
        close = ROUGH.get(kind, 0.98) if rough else 0.999
        assert similarity.min() > close, f"{kind}: {similarity.min()}"


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["cnn", "mobilenet"])
def test_batch_norms_stay_in_float32(mirror_dir, name, dtype):
    encoder = published_mobilenet(mirror_dir) if name == "mobilenet" else plugins.build("encoders", {"name": name})
    expected = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    norms = [name for name, module in encoder.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    halved = encoder.to(dtype)
    for name, tensor in halved.state_dict().items():
        if tensor.is_floating_point():
            assert tensor.dtype == (torch.float32 if name.rpartition(".")[0] in norms else dtype), name
        if name.rpartition(".")[0] in norms:
            assert torch.equal(tensor, expected[name])
    assert halved.double().get_submodule(norms[0]).running_var.dtype == torch.float64
    assert halved.train().to(dtype)(0.1 * torch.randn(2, 32_000)).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 4])
def test_norms_may_stay_in_float32_in_a_bfloat16_network(encoder, threads):
    waveform = recordings(encoder)["ordinary"]
    exact = encoder(waveform)
    halved = copy.deepcopy(encoder).bfloat16()
    for module in halved.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.float()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        embeddings = halved(waveform).float()
    finally:
        torch.set_num_threads(before)
    assert torch.cosine_similarity(embeddings, exact, dim=2).min() > 0.98


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_in_half_precision_are_finite(encoder, dtype):
    for kind, waveform in recordings(encoder).items():
        pupil = copy.deepcopy(encoder)
        with torch.autocast("cpu", dtype):
            loss = pupil(waveform).float().square().mean()
        loss.backward()
        for name, parameter in pupil.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), f"{kind}: {name}"


@torch.no_grad()
def test_front_ends_stay_in_float32(encoder):
    waveform = recordings(encoder)["ordinary"]
    front_end = next(module for module in encoder.children() if not list(module.parameters()))
    exact = front_end(waveform)
    halved = next(m for m in copy.deepcopy(encoder).half().children() if not list(m.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(halved(waveform), exact)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_prepared_once_follow_their_parameters(encoder, dtype):
    waveform = recordings(encoder)["ordinary"]
    original = copy.deepcopy(encoder).to(dtype)
    changing = copy.deepcopy(original)
    changing(waveform)
    for parameter in changing.parameters():
        parameter.lerp_(torch.full_like(parameter, 0.01), 0.1)
    fresh = copy.deepcopy(original)
    fresh.load_state_dict(changing.state_dict())
    assert torch.equal(changing(waveform), fresh(waveform))
    changing.load_state_dict(original.state_dict())
    assert torch.equal(changing(waveform), original(waveform))
    assert torch.equal(changing.double().to(dtype)(waveform), original(waveform))


def fused_step(network, waveform):
    network.train()(waveform).float().square().mean().backward()
    moved = [parameter for parameter in network.parameters() if parameter.grad is not None]
    torch.optim.AdamW(moved, lr=0.01, fused=True).step()
    network.eval()


def averaged(network, waveform):
    for parameter in network.parameters():
        parameter.data.mul_(0.999).add_(torch.full_like(parameter, 0.1), alpha=0.001)


def averaged_together(network, waveform):
    moved = [parameter.data for parameter in network.parameters()]
    torch._foreach_lerp_(moved, [torch.full_like(parameter, 0.1) for parameter in moved], 0.001)


@pytest.mark.parametrize("change", [fused_step, averaged, averaged_together])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepared_weights_follow_changes_that_torch_does_not_count(encoder, dtype, change):
    waveform = recordings(encoder)["ordinary"]
    changing = copy.deepcopy(encoder).to(dtype)
    with torch.no_grad():
        changing(waveform)
    change(changing, waveform)
    with torch.no_grad():
        assert torch.equal(changing(waveform), copy.deepcopy(changing)(waveform))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["beats", "passt"])
def test_a_network_with_prepared_weights_can_be_exported(name, dtype):
    torch.manual_seed(0)
    network = plugins.build("encoders", {"name": name, **SMALL}).eval().to(dtype)
    features = torch.randn(1, 208, 128) if name == "beats" else torch.randn(1, 128, 208)
    tokens = network.encode(features)
    for strict in (False, True):
        program = torch.export.export(_Encode(network), (features,), strict=strict)
        assert "mkldnn" not in str(program)
        similarity = torch.cosine_similarity(program.module()(features).float(), tokens.float(), dim=2)
        assert similarity.min() > 0.999
    assert torch.equal(network.encode(features), tokens)


class _Encode(torch.nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, features):
        return self.encoder.encode(features)


@torch.no_grad()
def test_prepared_weights_are_neither_copied_nor_saved(encoder):
    waveform = recordings(encoder)["ordinary"]
    halved = copy.deepcopy(encoder).bfloat16()
    names, fresh = list(halved.state_dict()), pickle.dumps(halved)
    embeddings = halved(waveform)
    assert list(halved.state_dict()) == names and len(pickle.dumps(halved)) == len(fresh)
    assert torch.equal(copy.deepcopy(halved)(waveform), embeddings)
    assert torch.equal(pickle.loads(pickle.dumps(halved))(waveform), embeddings)


def test_inference_before_a_step_leaves_its_gradients_whole(encoder):
    waveform = recordings(encoder)["ordinary"]
    halved = copy.deepcopy(encoder).bfloat16()
    with torch.no_grad():
        halved(waveform)
    halved(waveform).float().square().mean().backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for layer in halved.layers()
        for parameter in layer.parameters()
        if parameter.requires_grad
    )
