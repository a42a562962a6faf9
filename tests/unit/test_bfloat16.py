"""The compiled passes over bfloat16 numbers: float32's result, rounded once."""

from unittest import mock

import pytest
import torch
from torch.nn import functional as F

from sedflow import bfloat16, layer_norm, plugins, products

ONE_BIT = 2**-8  # of the eight that a bfloat16 has; rounding is off by half of it


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("keys", [1, 15, 16, 250, 496])
def test_softmax_is_float32s_rounded(keys):
    scores = 8 * drawn(2, 3, 5, keys)
    expected = torch.softmax(scores.float() * 0.7, dim=3)
    weights = bfloat16.softmax_(scores, 0.7)
    assert weights is scores
    torch.testing.assert_close(weights.float(), expected, rtol=ONE_BIT, atol=1e-30)


@pytest.mark.parametrize("bias_shape", [(2, 3, 5, 20), (1, 3, 5, 20), (1, 1, 5, 20), (2, 1, 1, 20), (20,)])
@pytest.mark.parametrize("gate_shape", [None, (2, 3, 5, 1), (1, 3, 1, 1)])
def test_bias_and_gate_are_broadcast(bias_shape, gate_shape):
    scores, bias = drawn(2, 3, 5, 20), drawn(*bias_shape, seed=1)
    gate = None if gate_shape is None else drawn(*gate_shape, seed=2)
    expected = torch.softmax(scores.float() * 0.5 + bias.float() * (1 if gate is None else gate.float()), dim=3)
    torch.testing.assert_close(bfloat16.softmax_(scores, 0.5, bias, gate).float(), expected, rtol=ONE_BIT, atol=1e-30)


def test_what_is_masked_weighs_nothing_and_huge_scores_stay_finite():
    scores = torch.tensor([[[[3e38, -3e38, 0.0], [-3e38, -3e38, -3e38]]]]).bfloat16()
    assert bfloat16.softmax_(scores, 1.0).tolist()[0][0][0] == [1, 0, 0]
    torch.testing.assert_close(scores[0, 0, 1].float(), torch.full((3,), 1 / 3), rtol=ONE_BIT, atol=0)
    bias = torch.tensor([0.0, -torch.inf, 0.0]).bfloat16()
    weights = bfloat16.softmax_(torch.zeros(1, 1, 2, 3).bfloat16(), 1.0, bias)
    assert weights[0, 0].tolist() == [[0.5, 0, 0.5]] * 2


@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf])
def test_a_row_that_is_no_number_is_seen_and_others_are_not_touched(bad):
    scores = torch.zeros(1, 1, 2, 40).bfloat16()
    scores[0, 0, 0, 7] = bad
    weights = bfloat16.softmax_(scores, 1.0)[0, 0]
    assert weights[0].isnan().all() and weights[1].isfinite().all()


@pytest.mark.parametrize("dim", [1, 17, 768])
@pytest.mark.parametrize("summed", [True, False])
def test_norm_is_float32s_rounded(dim, summed):
    norm = layer_norm.LayerNorm(dim, eps=1e-3).bfloat16()
    with torch.no_grad():
        norm.weight.copy_(drawn(dim, seed=1))
        norm.bias.copy_(drawn(dim, seed=2))
    tokens = 5 + drawn(2, 30, dim)
    others = drawn(2, dim, 30, seed=3).transpose(1, 2) if summed else None  # strided, as a convolution leaves it
    exact = tokens.float() + 1.5 * others.float() if summed else tokens.float()
    expected = F.layer_norm(exact, (dim,), norm.weight.float(), norm.bias.float(), 1e-3).detach()
    with torch.no_grad():
        torch.testing.assert_close(norm(tokens, others, 1.5).float(), expected, rtol=ONE_BIT, atol=1e-5)
    # with a gradient, PyTorch's
    torch.testing.assert_close(norm(tokens, others, 1.5).float(), expected, rtol=0.1, atol=0.1)


@torch.no_grad()
def test_a_norm_in_float32_of_bfloat16_tokens_is_torchs():
    norm = layer_norm.LayerNorm(16)
    norm.weight.copy_(drawn(16, seed=1))
    norm.bias.copy_(drawn(16, seed=2))
    tokens, others = drawn(2, 5, 16), torch.randn(2, 5, 16)
    expected = F.layer_norm(tokens.float(), (16,), norm.weight, norm.bias)
    torch.testing.assert_close(norm(tokens).float(), expected, rtol=ONE_BIT, atol=1e-5)
    # what is added to bfloat16 tokens may be float32
    expected = F.layer_norm(tokens + others, (16,), norm.weight, norm.bias)
    torch.testing.assert_close(norm(tokens, others), expected)


def test_infinity_is_seen_behind_a_norm():
    tokens = torch.zeros(2, 8).bfloat16()
    tokens[0, 3] = torch.inf
    normed = bfloat16.norm_of_sum(tokens, None, 1.0, torch.ones(8).bfloat16(), torch.zeros(8).bfloat16(), 1e-5)
    assert normed[0].isnan().any() and (normed[1] == 0).all()


def test_the_norm_of_a_sum_in_float32_is_torchs():
    norm, tokens, others = layer_norm.LayerNorm(12), torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    expected = F.layer_norm(tokens + 2 * others, (12,))
    assert torch.equal(norm(tokens, others, 2.0), expected)
    with torch.no_grad():
        assert torch.equal(norm(tokens, others, 2.0), expected)


SMALL = {"depth": 2, "dim": 96, "heads": 4}
ATTENDING = [("encoders", name, SMALL) for name in ("atst", "beats", "passt")] + [("sequence", "attention", {})]


@torch.no_grad()
@pytest.mark.parametrize(("family", "name", "settings"), ATTENDING)
def test_networks_in_bfloat16_take_the_compiled_passes_on_one_thread(monkeypatch, family, name, settings):
    passes = {pass_: mock.Mock(side_effect=getattr(bfloat16, pass_)) for pass_ in ("softmax_", "norm_of_sum")}
    for pass_, counted in passes.items():
        monkeypatch.setattr(bfloat16, pass_, counted)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        if family == "encoders":
            network = plugins.build(family, {"name": name, **settings}).eval().bfloat16()
            network(torch.randn(1, network.sample_rate))
        else:
            plugins.build(family, {"name": name, **settings}, 20).eval().bfloat16()(drawn(1, 30, 20))
    finally:
        torch.set_num_threads(before)
    # one softmax in each of two layers; the head's norms are no layer norms
    assert passes["softmax_"].call_count == 2
    assert passes["norm_of_sum"].call_count >= (4 if family == "encoders" else 0)


@torch.no_grad()
def test_many_threads_are_left_to_pytorch():
    before = torch.get_num_threads()
    tokens = drawn(2, 8)
    try:
        torch.set_num_threads(1)
        assert products.passes_pay(tokens)
        torch.set_num_threads(8)
        assert not products.passes_pay(tokens)
    finally:
        torch.set_num_threads(before)
    assert not products.passes_pay(tokens.float())
