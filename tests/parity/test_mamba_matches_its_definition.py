"""The chunked scan of the Mamba head against the recurrence it stands for, run frame by frame."""

import pytest
import torch

from sedflow.sequence.mamba import Mamba, _chunked_scan


def sequential_scan(signal, log_decay, write, read):
    """S_t = exp(log_decay_t) S_{t-1} + signal_t write_tᵀ; y_t = S_t read_t."""
    batch, frames, heads, head_dim = signal.shape
    state = signal.new_zeros(batch, heads, head_dim, write.shape[-1])
    outputs = []
    for t in range(frames):
        gained = signal[:, t, :, :, None] * write[:, t, None, None, :]
        state = log_decay[:, t].exp()[..., None, None] * state + gained
        outputs.append((state * read[:, t, None, None, :]).sum(-1))
    return torch.stack(outputs, dim=1)


def random_inputs(frames, dtype, decay=1.0):
    torch.manual_seed(frames)
    signal = torch.randn(2, frames, 3, 4, dtype=dtype)
    log_decay = -decay * torch.rand(2, frames, 3, dtype=dtype)
    write, read = torch.randn(2, 2, frames, 5, dtype=dtype)
    return [part.requires_grad_() for part in (signal, log_decay, write, read)]


@pytest.mark.parametrize("chunk", [1, 16, 64])
@pytest.mark.parametrize("frames", [1, 15, 16, 17, 250])
def test_chunks_change_nothing(frames, chunk):
    inputs = random_inputs(frames, torch.double)
    expected = sequential_scan(*inputs)
    actual = _chunked_scan(*inputs, chunk)
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent)
    )


@pytest.mark.parametrize("decay", [1e-3, 1.0, 30.0])
def test_float32_stays_close_over_a_hundred_seconds(decay):
    inputs = random_inputs(2_500, torch.double, decay)
    expected = sequential_scan(*inputs)
    actual = _chunked_scan(*(part.float() for part in inputs), 64)
    assert (actual - expected).norm() < 5e-6 * expected.norm()


@torch.no_grad()
def test_the_past_never_sees_the_future():
    torch.manual_seed(0)
    head = Mamba(6, width=32).double().eval()
    embeddings = torch.randn(1, 40, 6, dtype=torch.double)
    torch.testing.assert_close(head(embeddings)[:, :23], head(embeddings[:, :23]))


@torch.no_grad()
def test_chunk_is_no_matter_of_the_result():
    torch.manual_seed(0)
    one, other = Mamba(6, width=32, chunk=7).double().eval(), Mamba(6, width=32, chunk=50).double().eval()
    other.load_state_dict(one.state_dict())
    embeddings = torch.randn(2, 61, 6, dtype=torch.double)
    torch.testing.assert_close(one(embeddings), other(embeddings))


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="48 inner channels"):
        Mamba(6, width=24)
