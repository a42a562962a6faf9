"""The forms of the MobileNet encoder."""

import pytest
import torch
from torch import nn

from sedflow.encoders.mobilenet import MobileNet
from sedflow.encoders.passt import PaSST


@torch.no_grad()
def test_a_norm_with_fixed_statistics_is_folded_into_its_convolution():
    torch.manual_seed(0)
    stem = MobileNet(width=0.4).layers()[0].eval()
    convolution, norm, activation = stem
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    maps = torch.randn(2, 1, 128, 40)
    torch.testing.assert_close(stem(maps), activation(norm(convolution(maps))), rtol=1e-4, atol=1e-5)


def test_training_updates_the_running_statistics():
    encoder = MobileNet(width=0.4).train()
    encoder(torch.randn(2, 16000))
    assert all(module.running_mean.any() for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))


@torch.no_grad()
@pytest.mark.parametrize("strides", ["framewise", "dilated", "published"])
def test_taps_widen_the_embedding_by_their_maps(strides):
    encoder = MobileNet(width=0.4, strides=strides, taps=[13, 15]).eval()
    embeddings = encoder(torch.randn(1, 16000))
    assert embeddings.shape[-1] == encoder.dim > MobileNet(width=0.4).dim


@pytest.mark.parametrize(
    ("setting", "named"),
    [({"front_end": "mel"}, "efficientat"), ({"strides": "none"}, "dilated"), ({"taps": [1]}, "blocks 2–15")],
)
def test_a_wrong_form_is_answered_with_the_forms_there_are(setting, named):
    with pytest.raises(ValueError, match=named):
        MobileNet(width=0.4, **setting)


@torch.no_grad()
def test_gain_shifts_the_level():
    waveform = 0.01 * torch.randn(1, 16000)
    quiet = MobileNet(width=0.4).eval()
    lifted = MobileNet(width=0.4, gain_db=20).eval()
    lifted.load_state_dict(quiet.state_dict())
    torch.testing.assert_close(lifted(waveform), quiet(10 * waveform))


def test_the_mel_bank_moves_in_training_only_and_only_if_asked():
    waveform = torch.randn(1, 16000)
    for jitter, moves in ((True, True), (False, False)):
        front_end = MobileNet(width=0.4, mel_jitter=jitter).front_end
        torch.manual_seed(1)
        assert bool((front_end.train()(waveform) != front_end(waveform)).any()) == moves
        assert torch.equal(front_end.eval()(waveform), front_end(waveform))


def test_casting_the_network_leaves_the_front_end_in_float32():
    encoder = MobileNet(width=0.4).eval()
    waveform = torch.randn(1, 16000)
    mel = encoder.front_end(waveform)
    halved = encoder.bfloat16()
    assert torch.equal(halved.front_end(waveform), mel)
    assert halved(waveform).dtype == torch.bfloat16


@pytest.mark.parametrize(("most", "seen"), [(9, set(range(10))), (0, {0})])
def test_the_lower_edge_of_the_mel_bank_moves_as_far_as_is_said(monkeypatch, most, seen):
    front_end = PaSST(dim=8, depth=1, heads=1, mel_jitter=True, jitter_low_hz=most).front_end.train()
    edges = []
    monkeypatch.setattr(front_end, "_bank", lambda low, high: edges.append((low, high)) or front_end.bank)
    for _ in range(200):
        front_end(torch.zeros(1, 1600))
    assert {low for low, _ in edges} == seen
    assert all(6000 < high <= 8000 for _, high in edges) and len({high for _, high in edges}) > 100
