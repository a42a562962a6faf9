"""Layers that several networks share."""

import functools

import pytest
import torch

from sedflow.layers import BatchNorm2d


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
