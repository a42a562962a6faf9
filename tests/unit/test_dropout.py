"""Dropout that draws four numbers at a time is dropout."""

import pytest
import torch

from sedflow.dropout import Dropout


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


def test_parts_of_a_larger_tensor_are_dropped_too():
    wide = torch.randn(6, 40)
    part = wide[:, 3:19]
    dropped = Dropout(0.5)(part)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * part[kept])
    assert 0 < kept.sum() < kept.numel()
