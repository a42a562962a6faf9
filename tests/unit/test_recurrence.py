"""The recurrence gives what PyTorch's GRU gives, forwards and backwards, padded or not."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sedflow import gated_unit
from sedflow.recurrence import read_both_ways


def network(layers=2, dim=5, width=6):
    torch.manual_seed(0)
    return nn.GRU(dim, width, layers, batch_first=True, bidirectional=True)


def results(read, gru, sequence):
    """Output and all gradients of a loss that weighs every frame differently."""
    sequence = sequence.clone().requires_grad_()
    gru.zero_grad()
    output = read(sequence)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    return [output, sequence.grad, *(parameter.grad.clone() for parameter in gru.parameters())]


def exactly(gru, sequence, read=lambda gru, x: gru(x)[0]):
    """What PyTorch's own layer gives in float64, in float32."""
    exact = copy.deepcopy(gru).double()
    return [part.float() for part in results(lambda x: read(exact, x), exact, sequence.double())]


@pytest.mark.parametrize("width", [6, 16, 40])
@pytest.mark.parametrize("frames", [1, 2, 9, 60])
@pytest.mark.parametrize("batch", [1, 3])
def test_states_and_gradients_are_those_of_torch(frames, batch, width):
    gru, sequence = network(width=width), torch.randn(batch, frames, 5)
    mine = results(lambda x: read_both_ways(gru, x), gru, sequence)
    torch.testing.assert_close(mine, exactly(gru, sequence), rtol=1e-5, atol=3e-6)


def test_padding_is_not_read_and_gives_zero():
    gru, sequence, lengths = network(), torch.randn(3, 8, 5), torch.tensor([8, 3, 1])
    mask = torch.arange(8) < lengths.unsqueeze(1)
    sequence[~mask] = torch.nan

    def packed(gru, x):
        pack = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(gru(pack)[0], batch_first=True, total_length=8)[0]

    mine = results(lambda x: read_both_ways(gru, x, mask), gru, sequence)
    torch.testing.assert_close(mine, exactly(gru, sequence, packed), rtol=1e-5, atol=3e-6)
    assert not mine[0][~mask].any() and not mine[1][~mask].any()


def test_dropout_lies_between_layers_alone():
    torch.manual_seed(0)
    gru = nn.GRU(5, 64, 2, batch_first=True, bidirectional=True, dropout=1.0)
    sequence = torch.randn(2, 7, 5)
    expected = nn.GRU(128, 64, batch_first=True, bidirectional=True)
    expected.load_state_dict(
        {name.replace("l1", "l0"): value for name, value in gru.state_dict().items() if "l1" in name}
    )
    torch.testing.assert_close(read_both_ways(gru, sequence), expected(torch.zeros(2, 7, 128))[0])
    gru.eval()
    torch.testing.assert_close(read_both_ways(gru, sequence), gru(sequence)[0])


def test_what_needs_no_gradient_is_the_same():
    gru, sequence = network(), torch.randn(2, 30, 5)
    with torch.no_grad():
        inferred = read_both_ways(gru, sequence)
    assert torch.equal(inferred, read_both_ways(gru, sequence).detach())


def test_states_are_exact_under_autocast():
    gru, sequence = network(), torch.randn(2, 300, 5)
    exact = results(lambda x: gru(x)[0], gru, sequence)
    with torch.autocast("cpu", torch.bfloat16):
        output = read_both_ways(gru, sequence)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact[0], rtol=0, atol=2e-2)
    output.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in gru.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_under_autocast_are_near(dtype):
    gru, sequence = network(width=32), torch.randn(4, 50, 5)
    exact = results(lambda x: gru(x)[0], gru, sequence)

    def read(x):
        with torch.autocast("cpu", dtype):
            return read_both_ways(gru, x).float()

    for mine, other in zip(results(read, gru, sequence), exact, strict=True):
        assert nn.functional.cosine_similarity(mine.flatten(), other.flatten(), dim=0) > 0.999


def test_half_precision_weights_are_read():
    gru, sequence = network(), torch.randn(2, 30, 5)
    expected = gru(sequence)[0]
    output = read_both_ways(gru.to(torch.bfloat16), sequence.to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=3e-2)


def test_what_is_not_a_number_stays_so():
    gru, sequence = network(), torch.randn(2, 9, 5)
    sequence[1, 4, 0] = torch.nan
    lost = torch.isnan(read_both_ways(gru, sequence)).any(dim=2)
    assert lost[1].all() and not lost[0].any()


def test_nonlinearities_are_near_and_saturate():
    numbers = np.concatenate([np.linspace(-40, 40, 20_001), np.logspace(-30, 0, 1000)]).astype(np.float32)
    exact = numbers.astype(np.float64)
    tanh = np.array([gated_unit.tanh(number) for number in numbers])
    sigmoid = np.array([gated_unit.sigmoid(number) for number in numbers])
    np.testing.assert_allclose(tanh, np.tanh(exact), rtol=6e-7, atol=0)
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-exact)), rtol=0, atol=2e-7)
    assert gated_unit.sigmoid(np.float32(1e4)) == 1 and gated_unit.sigmoid(np.float32(-1e4)) == 0
