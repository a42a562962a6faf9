import math

import pytest
import torch

from sedflow import plugins
from sedflow.regularisers import Balancer, Ceiling, Regulariser, Whitener, limited, switch_off

ALWAYS = {"share": 1.0}
# limits that random numbers exceed
EACH = [Balancer((0.4, 0.6), (0.5, 2.0), **ALWAYS), Whitener(0.5, **ALWAYS), Ceiling(0.1, **ALWAYS)]


def gradient(regulariser, x, upstream):
    """What reaches x when ``upstream`` arrives behind the regulariser."""
    x = x.clone().requires_grad_()
    regulariser.train()(x).backward(upstream)
    return x.grad


@pytest.mark.parametrize("regulariser", EACH)
def test_values_pass_unchanged_and_gradients_too_in_evaluation(regulariser):
    torch.manual_seed(0)
    x = torch.rand(2, 30, 4).requires_grad_()
    upstream = torch.randn(2, 30, 4)
    assert torch.equal(regulariser.train()(x), x)
    assert not torch.equal(gradient(regulariser, x.detach(), upstream), upstream)
    assert regulariser.eval()(x) is x


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("regulariser", EACH)
def test_gradients_of_few_frames_are_finite(regulariser, frames):
    torch.manual_seed(0)
    assert gradient(regulariser, torch.rand(1, frames, 4), torch.randn(1, frames, 4)).isfinite().all()


@pytest.mark.parametrize("frames", [1, 2, 4, 5])
def test_a_zipformer_trains_on_a_clip_of_few_frames(frames):
    torch.manual_seed(0)
    head = plugins.build("sequence", {"name": "zipformer", "regularise": True}, 96).train()
    for part in head.modules():
        if isinstance(part, Regulariser):
            part.share = 1.0
    head(torch.randn(1, frames, 96)).square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters() if parameter.grad is not None)


def test_switched_off_regularisers_rest():
    network = torch.nn.Sequential(Ceiling(0.1, **ALWAYS), Whitener(0.5, **ALWAYS)).train()
    switch_off(network)
    x = torch.rand(3, 4).requires_grad_()
    assert network(x) is x


def test_balancer_leaves_channels_within_limits_alone():
    torch.manual_seed(0)
    x = torch.randn(400, 3)
    x[:, 1] = x[:, 1].abs()  # positive too often
    x[:, 2] = x[:, 2] / 100  # too small
    upstream = torch.ones_like(x)
    nudge = gradient(Balancer((0.4, 0.6), (0.5, 2.0), strength=0.04, **ALWAYS), x, upstream) - upstream
    assert nudge[:, 0].abs().max() == 0
    rms = nudge[:, 1:].square().mean(0).sqrt()
    torch.testing.assert_close(rms, torch.full((2,), 0.04), rtol=1e-4, atol=0)
    moved = x - 0.1 * nudge
    assert moved[:, 1].mean() / moved[:, 1].std() < x[:, 1].mean() / x[:, 1].std()
    assert moved[:, 2].abs().mean() > x[:, 2].abs().mean()


def test_balancer_finds_the_wanted_share_and_magnitude():
    torch.manual_seed(0)
    x = 0.1 * torch.randn(500, 1) + 3
    balancer = Balancer((0.2, 0.8), (0.5, 1.0), strength=1.0, **ALWAYS)
    for _ in range(300):
        x = x - 0.02 * gradient(balancer, x, torch.randn_like(x))
    assert (x > 0).float().mean() < 0.9
    assert 0.4 < x.abs().mean() < 1.1


def test_balancer_works_along_any_axis():
    torch.manual_seed(0)
    x, upstream = torch.rand(4, 6, 5), torch.randn(4, 6, 5)
    last = gradient(Balancer((0.4, 0.6), (0.5, 2.0), **ALWAYS), x.transpose(1, 2), upstream.transpose(1, 2))
    first = gradient(Balancer((0.4, 0.6), (0.5, 2.0), axis=1, **ALWAYS), x, upstream)
    torch.testing.assert_close(first, last.transpose(1, 2))


def inequality(x):
    values = torch.linalg.eigvalsh(torch.cov(x.T))
    return values.square().mean() / values.mean().square()


def test_whitener_spreads_collapsed_channels_and_spares_white_ones():
    torch.manual_seed(0)
    white = torch.randn(4_000, 8)
    collapsed = white[:, :1] + 0.1 * white
    upstream = torch.randn_like(white)
    whitener = Whitener(2.0, strength=0.5, **ALWAYS)
    assert torch.equal(gradient(whitener, white, upstream), upstream)
    nudge = gradient(whitener, collapsed, upstream) - upstream
    torch.testing.assert_close(nudge.norm(), 0.5 * upstream.norm(), rtol=1e-4, atol=0)
    assert inequality(collapsed - 0.1 * nudge) < inequality(collapsed)


def test_whitener_sees_each_group_for_itself():
    torch.manual_seed(0)
    x = torch.randn(2_000, 4)
    x = torch.cat((x[:, :2], x[:, :2]), dim=-1)  # two groups alike, each white
    upstream = torch.randn_like(x)
    assert torch.equal(gradient(Whitener(1.5, groups=2, **ALWAYS), x, upstream), upstream)
    assert not torch.equal(gradient(Whitener(1.5, **ALWAYS), x, upstream), upstream)


def test_ceiling_pulls_at_what_exceeds_it():
    x = torch.tensor([-30.0, -20.0, 20.0, 30.0])
    pull = gradient(Ceiling(25.0, strength=0.5, **ALWAYS), x, torch.zeros(4))
    assert pull.tolist() == [-0.5, 0.0, 0.0, 0.5]


@pytest.mark.parametrize(("value", "expected"), [(0.1, [-2.0, -2.0]), (0.5, [2.0, -2.0]), (1.1, [2.0, 2.0])])
def test_a_limited_parameter_comes_back(value, expected):
    parameter = torch.full((2,), value, requires_grad=True)
    limited(parameter, 0.2, 1.0).backward(torch.tensor([2.0, -2.0]))
    assert parameter.grad.tolist() == expected


def test_a_share_of_the_steps():
    torch.manual_seed(0)
    ceiling = Ceiling(0.0, share=0.3, strength=1.0)
    acted = [gradient(ceiling, torch.ones(1), torch.zeros(1)).item() for _ in range(500)]
    assert math.isclose(sum(acted) / 500, 0.3, abs_tol=0.06)


@pytest.mark.parametrize("regulariser", EACH)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_constant_input_gives_finite_gradients(regulariser, precision):
    for value in (0.0, 1.0, 1e4):
        x = torch.full((3, 5, 4), value, dtype=precision)
        grad = gradient(regulariser, x, torch.ones_like(x))
        assert grad.dtype == precision
        assert grad.isfinite().all()
