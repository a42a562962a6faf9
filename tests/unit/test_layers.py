"""Layers that several networks share."""

import functools

import pytest
import torch

from sedflow.layers import BatchNorm2d, Dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_keeps_the_share_and_the_mean(probability, layout):
    torch.manual_seed(0)
    ones = torch.ones(8, 32, 50, 41).contiguous(memory_format=layout)  # no multiple of four
    dropped = Dropout(probability)(ones)
    kept = dropped != 0
    assert kept.float().mean() == pytest.approx(1 - probability, abs=0.003)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / (1 - probability)))
    assert dropped.is_contiguous(memory_format=layout)
    # neighbours are independent, across the four numbers of one draw too
    flat = kept.permute(0, 2, 3, 1).flatten().float() - (1 - probability)
    for step in (1, 2, 3, 4, 5):
        assert abs((flat[step:] * flat[:-step]).mean()) < 0.002


def test_dropout_follows_the_seed_and_stops_outside_training():
    values = torch.randn(3, 5, 7)
    torch.manual_seed(1)
    first = Dropout(0.5)(values)
    torch.manual_seed(1)
    assert torch.equal(first, Dropout(0.5)(values))
    assert not torch.equal(first, Dropout(0.5)(values))
    assert Dropout(0.5).eval()(values) is values
    assert torch.equal(Dropout(0.0)(values), values)


def test_gradient_of_dropout_is_its_mask():
    values = torch.randn(4, 6, requires_grad=True)
    dropped = Dropout(0.5)(values)
    dropped.sum().backward()
    torch.testing.assert_close(dropped, values * values.grad)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_norm_of_maps_with_channels_last_is_exact(dtype, tolerance):
    torch.manual_seed(0)
    norm, exact = BatchNorm2d(4, momentum=0.3), torch.nn.BatchNorm2d(4, momentum=0.3).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-1, 1)
    exact.load_state_dict(norm.state_dict())
    offset = torch.arange(4.0).view(4, 1, 1)  # as large as the spread: cancellation would show
    maps = (torch.randn(5, 4, 300, 67) + offset).to(dtype).contiguous(memory_format=torch.channels_last)
    pull = torch.randn(5, 4, 300, 67).to(dtype)
    ours, peer = maps.clone().requires_grad_(), maps.double().requires_grad_()
    normed, expected = norm(ours), exact(peer)
    normed.backward(pull)
    expected.backward(pull.double())
    assert normed.dtype == dtype and normed.is_contiguous(memory_format=torch.channels_last)
    close = functools.partial(torch.testing.assert_close, check_dtype=False, rtol=tolerance, atol=tolerance)
    close(normed, expected)
    close(ours.grad, peer.grad)
    for name, buffer in exact.named_buffers():
        torch.testing.assert_close(dict(norm.named_buffers())[name], buffer, check_dtype=False, rtol=2e-6, atol=2e-6)
    for name, parameter in exact.named_parameters():
        gradient = dict(norm.named_parameters())[name].grad
        torch.testing.assert_close(gradient, parameter.grad, check_dtype=False, rtol=tolerance, atol=tolerance * 100)


def test_norm_outside_training_is_torchs():
    norm, maps = BatchNorm2d(3).eval(), torch.randn(2, 3, 5, 4)
    assert torch.equal(norm(maps), torch.nn.BatchNorm2d(3).eval()(maps))
