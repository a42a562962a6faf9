"""The matrix products give what PyTorch's give, on every kind of processor."""

import pytest
import torch
from torch.nn import functional as F

from sedflow import products


@pytest.fixture(params=[True, False], ids=["tiles", "no tiles"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(products, "_multiplies_in_tiles", lambda: request.param)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_torchs_with_and_without_gradient(bias):
    torch.manual_seed(0)
    layer = products.Linear(24, 40, bias=bias)
    strided = torch.randn(3, 24, 7).transpose(1, 2)
    expected = F.linear(strided, layer.weight, layer.bias)
    torch.testing.assert_close(layer(strided), expected)
    torch.testing.assert_close(layer(strided, gelu=True), F.gelu(expected))
    with torch.no_grad():
        torch.testing.assert_close(layer(strided), expected.detach(), rtol=1e-5, atol=1e-6)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert layer(strided).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("bias", [True, False])
def test_linear_in_bfloat16_is_torchs_rounded(bias):
    torch.manual_seed(0)
    layer = products.Linear(24, 40, bias=bias).bfloat16()
    for rows in (1, 7, 500):
        features = torch.randn(2, rows, 24, dtype=torch.bfloat16)
        exact = F.linear(features.float(), layer.weight.float(), None if layer.bias is None else layer.bias.float())
        torch.testing.assert_close(layer(features), exact.bfloat16(), rtol=2**-7, atol=2**-7)
        torch.testing.assert_close(layer(features, gelu=True), F.gelu(exact).bfloat16(), rtol=2**-7, atol=2**-7)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 8), (2, 7, 8), (1, 8)])
def test_gradients_of_linear_are_torchs(shape, bias):
    torch.manual_seed(0)
    layer, features = products.Linear(8, 4, bias=bias), torch.randn(shape, requires_grad=True)
    inputs, towards = [features, *layer.parameters()], torch.randn(*shape[:-1], 4)
    mine = torch.autograd.grad(layer(features), inputs, towards)
    expected = torch.autograd.grad(F.linear(features, layer.weight, layer.bias), inputs, towards)
    torch.testing.assert_close(mine, expected)


@pytest.mark.usefixtures("tiles")
def test_a_frozen_layer_passes_its_gradient_on():
    layer, features = products.Linear(8, 4).requires_grad_(False), torch.randn(3, 8, requires_grad=True)
    layer(features).sum().backward()
    torch.testing.assert_close(features.grad, layer.weight.sum(dim=0).expand(3, 8))
    assert layer.weight.grad is None


def test_a_release_without_the_operator_multiplies_as_usual(monkeypatch):
    monkeypatch.setattr(products, "_has_onednn", lambda dtype: False)
    layer, features = products.Linear(8, 4), torch.randn(5, 8)
    with torch.no_grad():
        torch.testing.assert_close(layer(features), F.linear(features, layer.weight, layer.bias))


@pytest.fixture(params=[1, 4], ids=["one thread", "four threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@torch.no_grad()
@pytest.mark.usefixtures("tiles", "threads")
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("added", ["nothing", "bias", "gated bias"])
def test_attention_is_torchs(dtype, atol, added):
    torch.manual_seed(0)
    queries, keys, values = torch.randn(2, 10, 3, 4, 8).permute(2, 0, 3, 1, 4).to(dtype)  # as a joint projection gives
    bias = torch.randn(1, 4, 10, 10).to(dtype) if "bias" in added else None
    gate = torch.rand(2, 4, 10, 1).to(dtype) if "gated" in added else None
    mixed = products.attention(queries, keys, values, bias, gate)
    mask = None if bias is None else bias.float() * (1.0 if gate is None else gate.float())
    expected = F.scaled_dot_product_attention(queries.float(), keys.float(), values.float(), attn_mask=mask)
    torch.testing.assert_close(mixed.float(), expected, rtol=0, atol=atol)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("added", ["nothing", "bias", "gated bias", "mask"])
def test_gradients_of_attention_are_torchs(dtype, atol, added):
    torch.manual_seed(0)
    exact = [torch.randn(2, 4, 10, 8, requires_grad=True) for _ in range(3)]
    bias = torch.randn(1, 4, 10, 10, requires_grad=True) if "bias" in added else None
    gate = torch.rand(2, 4, 10, 1, requires_grad=True) if "gated" in added else None
    mask = torch.arange(10).expand(2, 1, 1, 10) < 7 if added == "mask" else None
    given = [part for part in (*exact, bias, gate) if part is not None]
    pull = torch.randn(2, 4, 10, 8)

    def gradients(attend, precision):
        parts = [part.detach().to(precision).requires_grad_() for part in given]
        attend(*parts).float().backward(pull)
        return [part.grad.float() for part in parts]

    def by_torch(queries, keys, values, bias=None, gate=None):
        added = mask if bias is None else bias * (1 if gate is None else gate)
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=added)

    def ours(queries, keys, values, bias=mask, gate=None):
        return products.attention(queries, keys, values, bias, gate)

    for mine, expected in zip(gradients(ours, dtype), gradients(by_torch, torch.float32), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("autocast", [False, True])
def test_attention_drops_its_share_and_keeps_the_mean(autocast):
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 1, 2, 40, 8)
    values = torch.eye(40).expand(1, 2, 40, 40)  # what comes out is the weights themselves
    if autocast:
        values = values.bfloat16()  # as a linear layer gives them, where positions turned the others in float32
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        weights = products.attention(queries, keys, values)
        dropped = torch.stack([products.attention(queries, keys, values, dropped=0.25) for _ in range(400)])
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=0.005)
    torch.testing.assert_close(dropped.float().mean(dim=0), weights.float(), rtol=0.2, atol=2e-3)


@torch.no_grad()
@pytest.mark.usefixtures("tiles", "threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_keys_are_not_seen(dtype):
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 1, 2, 6, 8).to(dtype)
    bias = torch.zeros(1, 2, 6, 6, dtype=dtype)
    bias[..., 4:] = torch.finfo(dtype).min
    before = products.attention(queries, keys, values, bias)
    values[..., 4:, :] = 1e4
    assert torch.equal(products.attention(queries, keys, values, bias), before)
