"""The recurrence gives what PyTorch's GRU gives, forwards and backwards, padded or not."""

import pytest
import torch
from torch import nn

from sedflow.recurrence import read_both_ways


def network(layers=2, dim=5, width=6, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.GRU(dim, width, layers, batch_first=True, bidirectional=True).to(dtype)


def results(read, gru, sequence):
    """Output and all gradients of a loss that weighs every frame differently."""
    sequence = sequence.clone().requires_grad_()
    gru.zero_grad()
    output = read(sequence)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    return [output, sequence.grad, *(parameter.grad.clone() for parameter in gru.parameters())]


@pytest.mark.parametrize("frames", [1, 2, 9])
@pytest.mark.parametrize("batch", [1, 3])
def test_states_and_gradients_are_those_of_torch(frames, batch):
    gru, sequence = network(), torch.randn(batch, frames, 5, dtype=torch.float64)
    mine = results(lambda x: read_both_ways(gru, x), gru, sequence)
    torch.testing.assert_close(mine, results(lambda x: gru(x)[0], gru, sequence), rtol=1e-10, atol=1e-12)


def test_padding_is_not_read_and_gives_zero():
    gru, sequence, lengths = network(), torch.randn(3, 8, 5, dtype=torch.float64), torch.tensor([8, 3, 1])
    mask = torch.arange(8) < lengths.unsqueeze(1)
    sequence[~mask] = torch.nan

    def packed(x):
        pack = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(gru(pack)[0], batch_first=True, total_length=8)[0]

    mine = results(lambda x: read_both_ways(gru, x, mask), gru, sequence)
    expected = results(packed, gru, sequence)
    torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)
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


def test_states_are_exact_under_autocast():
    gru, sequence = network(dtype=torch.float32), torch.randn(2, 300, 5)
    exact = results(lambda x: gru(x)[0], gru, sequence)
    with torch.autocast("cpu", torch.bfloat16):
        output = read_both_ways(gru, sequence)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact[0], rtol=0, atol=2e-2)
    output.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in gru.parameters())


def test_half_precision_weights_are_read():
    gru, sequence = network(dtype=torch.float32), torch.randn(2, 30, 5)
    expected = gru(sequence)[0]
    output = read_both_ways(gru.to(torch.bfloat16), sequence.to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=3e-2)


def test_gradients_are_those_of_small_differences():
    gru = network(1, 3, 2)
    sequence = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: read_both_ways(gru, x), sequence)
