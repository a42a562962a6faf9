"""The chunked scan of the Mamba head against the recurrence it stands for, run frame by frame."""

import sys
import types
import warnings

import pytest
import torch

from sedflow.sequence import mamba
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


@pytest.fixture
def kernels(monkeypatch):
    """Stands in for ``mamba_ssm``: the arguments that its documentation names, in their shapes; records calls."""
    called = []

    def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, **options):
        (batch, frames, heads, _), (groups, state) = x.shape, B.shape[2:]
        assert dt.shape == (batch, frames, heads) and A.shape == (heads,)
        assert B.shape == C.shape == (batch, frames, groups, state) and groups == 1
        assert D is z is dt_bias is None and not options
        assert {part.dtype for part in (x, dt, A, B, C)} == {torch.float32} and (A < 0).all() and (dt > 0).all()
        called.append(chunk_size)
        return sequential_scan(x * dt.unsqueeze(-1), dt * A, B.squeeze(2), C.squeeze(2))

    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.ops.triton.ssd_combined"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["mamba_ssm.ops.triton.ssd_combined"].mamba_chunk_scan_combined = mamba_chunk_scan_combined
    mamba._fused_scan.cache_clear()
    yield called
    mamba._fused_scan.cache_clear()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_are_given_what_they_want_and_change_nothing(kernels, monkeypatch, dtype):
    torch.manual_seed(0)
    head = Mamba(6, width=64, chunk=16).to(dtype).eval()
    embeddings = torch.randn(2, 41, 6).to(dtype)
    expected = head(embeddings)
    assert not kernels  # a processor has no kernels
    monkeypatch.setattr(mamba, "_suits_kernels", lambda signal, chunk: True)
    torch.testing.assert_close(head(embeddings), expected, rtol=1e-4, atol=1e-5 if dtype == torch.float32 else 1e-2)
    assert kernels == [16, 16]  # one call for each layer


def test_kernels_are_left_alone_where_they_do_not_fit():
    on_gpu = types.SimpleNamespace(is_cuda=True, dtype=torch.float32)
    assert [chunk for chunk in range(1, 513) if mamba._suits_kernels(on_gpu, chunk)] == [16, 32, 64, 128, 256]
    assert not mamba._suits_kernels(types.SimpleNamespace(is_cuda=True, dtype=torch.float64), 64)
    assert not mamba._suits_kernels(torch.zeros(1), 64)


def test_kernels_that_cannot_be_used_are_told_and_missing_ones_are_not(monkeypatch):
    mamba._fused_scan.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "mamba_ssm":
                raise ModuleNotFoundError("No module named 'mamba_ssm'", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent, *sys.meta_path])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mamba._fused_scan() is None
    mamba._fused_scan.cache_clear()
    # another module is missing, as where Triton is, or the module is there without its kernel
    monkeypatch.setitem(sys.modules, "mamba_ssm", types.ModuleType("mamba_ssm"))
    with pytest.warns(UserWarning, match="installed but not usable"):
        assert mamba._fused_scan() is None
    mamba._fused_scan.cache_clear()
