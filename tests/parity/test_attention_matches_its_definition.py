"""Gated rotary attention against its formula, written head by head."""

import pytest
import torch

from sedflow.layers import GatedAttention, RMSNorm, Rotary
from sedflow.sequence.attention import Attention


def rotate(x, freqs):
    """Complex multiplication of the pairs (2i, 2i + 1) by e^(i · position · freq)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turns = torch.outer(torch.arange(x.shape[-2], dtype=freqs.dtype), freqs)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(turns), turns)).flatten(-2)


@torch.no_grad()
def test_one_layer_head_by_head():
    torch.manual_seed(0)
    dim, heads = 24, 3
    layer = GatedAttention(dim, heads).double().eval()
    torch.nn.init.normal_(layer.norm.gamma)
    x = torch.randn(2, 17, dim, dtype=torch.double)
    hidden = x / x.norm(dim=-1, keepdim=True) * dim**0.5 * layer.norm.gamma
    gates = (hidden @ layer.to_gates.weight.T + layer.to_gates.bias).sigmoid()
    query, key, value = (hidden @ layer.to_qkv.weight.T).split(dim, dim=-1)
    outputs = []
    for h in range(heads):
        own = slice(8 * h, 8 * h + 8)
        turned = [rotate(part[..., own], layer.pos_encoding.freqs) for part in (query, key)]
        weights = (turned[0] @ turned[1].transpose(1, 2) / 8**0.5).softmax(-1)
        outputs.append(gates[..., h : h + 1] * (weights @ value[..., own]))
    torch.testing.assert_close(layer(x), torch.cat(outputs, dim=-1) @ layer.to_out[0].weight.T)


@torch.no_grad()
def test_rotated_products_depend_on_the_distance_alone():
    rotary = Rotary(16).double()
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.double).expand(-1, -1, -1, 30, -1)
    products = rotary(query) @ rotary(key).transpose(2, 3)
    torch.testing.assert_close(products[0, 0, 5, 2], products[0, 0, 25, 22])


@torch.no_grad()
def test_frequencies_are_the_published_ones():
    expected = torch.tensor([10_000.0 ** (-2 * i / 32) for i in range(16)])
    torch.testing.assert_close(Rotary(32).freqs, expected)


@torch.no_grad()
def test_norm_gives_unit_rms_and_bears_silence():
    norm = RMSNorm(48)
    torch.testing.assert_close(norm(torch.randn(5, 48)).square().mean(-1), torch.ones(5))
    assert torch.equal(norm(torch.zeros(1, 48)), torch.zeros(1, 48))


@torch.no_grad()
def test_padding_changes_nothing():
    torch.manual_seed(0)
    head = Attention(6, width=32).double().eval()
    embeddings, padding = torch.randn(2, 2, 20, 6, dtype=torch.double)
    padded = head(torch.cat((embeddings, padding), dim=1), (torch.arange(40) < 20).expand(2, -1))[:, :20]
    torch.testing.assert_close(padded, head(embeddings))


@pytest.mark.parametrize(("width", "reason"), [(100, "cannot be divided among 8 heads"), (104, "even width per head")])
def test_heads_that_do_not_fit_are_refused(width, reason):
    with pytest.raises(ValueError, match=reason):
        Attention(6, width=width)
