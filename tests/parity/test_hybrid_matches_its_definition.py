"""The minGRU of the hybrid head against its recurrence, frame by frame, and the published sums of logarithms."""

import pytest
import torch

from sedflow.sequence.hybrid import Hybrid, _MinGRU, _Recurrence, _TwoWayMinGRU


def sequential(keep, gain):
    """h_t = keep_t h_{t-1} + gain_t from zero."""
    hidden, state = [], torch.zeros_like(gain[:, 0])
    for t in range(gain.shape[1]):
        state = keep[:, t] * state + gain[:, t]
        hidden.append(state)
    return torch.stack(hidden, dim=1)


def in_logarithms(gate, candidate):
    """The published parallel form, cpjku_efficient.md §2."""
    softplus = torch.nn.functional.softplus
    log_g = torch.where(candidate >= 0, (candidate.relu() + 0.5).log(), -softplus(-candidate))
    summed = (-softplus(gate)).cumsum(1)
    return (summed + (-softplus(-gate) + log_g - summed).logcumsumexp(1)).exp()


def scan(gate, candidate):
    """What the head computes from given gates: a minGRU whose linear layer is the identity."""
    gru = _MinGRU(gate.shape[-1]).to(gate.dtype)
    gru.to_hidden_and_gate = torch.nn.Identity()
    return gru(torch.cat((candidate, gate), dim=-1))


def test_published_values():
    gate, candidate = torch.tensor([[0.5, -1.0, 2.0], [0.2, -0.4, 1.5]]).reshape(2, 1, 3, 1)
    expected = torch.tensor([0.435722, 0.426468, 1.812430]).reshape(1, 3, 1)
    torch.testing.assert_close(scan(gate, candidate), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 3, 31, 32, 250])
def test_recurrence_and_its_gradient(frames):
    torch.manual_seed(frames)
    keep, gain = torch.rand(2, 2, frames, 3, dtype=torch.double).requires_grad_()
    expected, actual = sequential(keep, gain), _Recurrence.apply(keep, gain)
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, (keep, gain), cotangent), torch.autograd.grad(expected, (keep, gain), cotangent)
    )


@pytest.mark.parametrize("size", [1.0, 20.0])
@pytest.mark.parametrize("frames", [250, 2_500])
def test_published_form_has_the_same_values_with_larger_errors(frames, size):
    torch.manual_seed(0)
    gate, candidate = (
        size * torch.randn(1, frames, 8, dtype=torch.double),
        torch.randn(1, frames, 8, dtype=torch.double),
    )
    exact = in_logarithms(gate, candidate)
    ours, theirs = (
        ((form(gate.float(), candidate.float()) - exact).abs() / exact.clamp(min=1e-30)).max()
        for form in (scan, in_logarithms)
    )
    assert ours < 2e-5  # of which all but 1e-6 comes from rounding the gates to float32
    assert ours < theirs


@torch.no_grad()
def test_backward_gru_reads_the_reversed_clip():
    torch.manual_seed(0)
    both = _TwoWayMinGRU(4).double()
    x = torch.randn(2, 9, 4, dtype=torch.double)
    expected = torch.cat((both.forward_minGRU(x), both.backward_minGRU(x.flip(1)).flip(1)), dim=-1)
    torch.testing.assert_close(both(x, None), both.to_out(expected))


@torch.no_grad()
@pytest.mark.parametrize("width", [8, 104, 160])
def test_padding_changes_nothing_at_any_width(width):
    torch.manual_seed(0)
    head = Hybrid(6, width=width).double().eval()
    embeddings, padding = torch.randn(2, 2, 20, 6, dtype=torch.double)
    padded = head(torch.cat((embeddings, padding), dim=1), (torch.arange(40) < 20).expand(2, -1))[:, :20]
    torch.testing.assert_close(padded, head(embeddings))


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="width 100 cannot be divided among 8 heads"):
        Hybrid(6, width=100)
