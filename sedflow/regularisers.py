"""Training-time regularisers: values pass unchanged, gradients are bent; in evaluation nothing happens.

Source
------
Yao et al., Zipformer, arXiv:2310.11230; limits as in k2-fsa/icefall 36e0420 egs/librispeech/ASR/zipformer.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import nn

from sedflow.layers import at_least_float32


class Regulariser(nn.Module):
    """Acts in a share of the training steps; zero switches it off.

    A subclass says what it adds to the gradient: ``nudge(x, grad)`` with x in float32 at least.
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, x):
        """Any shape → the same values."""
        if self.training and x.requires_grad and self.share and torch.rand(()) < self.share:
            return _Nudged.apply(x, self.nudge)
        return x

    def nudge(self, x, grad):
        """What is added to the gradient of x."""
        raise TypeError(f"{type(self).__name__} does not say how it nudges")


class Balancer(Regulariser):
    """Nudge each channel towards a wanted share of positive values and a wanted mean magnitude.

    Both are met as for a normal variable: the first fixes mean / deviation, the second the root mean square.

    Parameters
    ----------
    positive : (low, high)    share of positive values
    magnitude : (low, high)    mean absolute value
    axis : int    of the channels
    share : float    of the training steps
    strength : float    size of a nudge relative to the gradient
    """

    def __init__(self, positive, magnitude, *, axis: int = -1, share: float = 0.4, strength: float = 0.04):
        super().__init__(share)
        self.axis, self.strength = axis, strength
        self.ratio = tuple(_normal_quantile(limit) for limit in positive)
        self.log_rms = tuple(math.log(limit * math.sqrt(math.pi / 2)) if limit else -math.inf for limit in magnitude)

    def nudge(self, x, grad):
        """Down the distance of each channel from its limits, as large as the gradient times ``strength``."""
        slope = _slope(self._distance, x)
        others = [axis for axis in range(x.ndim) if axis != self.axis % x.ndim]
        rms = slope.square().mean(others, keepdim=True).sqrt().clamp(min=1e-20)
        return self.strength * grad.abs() * slope / rms

    def _distance(self, x):
        frames = x.movedim(self.axis, -1).flatten(0, -2)
        log_rms = frames.square().mean(0).clamp(min=1e-20).log() / 2
        distance = (log_rms - log_rms.clamp(*self.log_rms)).abs().sum()
        if len(frames) == 1:  # which has no deviation
            return distance
        ratio = frames.mean(0) / frames.std(0).clamp(min=1e-10)
        return distance + (ratio - ratio.clamp(*self.ratio)).abs().sum()


class Whitener(Regulariser):
    """Keep the channels of a group from collapsing into few directions.

    Of the eigenvalues of the covariance, mean of squares over square of mean is 1 if they are equal and grows as they
    part; where it exceeds ``limit``, the gradient leads back.

    Parameters
    ----------
    limit : float
    groups : int    the last axis is cut into this many
    share : float    of the training steps
    strength : float    length of a nudge relative to the gradient
    """

    def __init__(self, limit, *, groups: int = 1, share: float = 0.25, strength: float = 0.01):
        super().__init__(share)
        self.limit, self.groups, self.strength = limit, groups, strength

    def nudge(self, x, grad):
        """Down the inequality of eigenvalues."""
        slope = _slope(self._excess, x)
        return slope * (self.strength * grad.norm() / slope.norm().clamp(min=1e-20))

    def _excess(self, x):
        frames = x.flatten(0, -2).unflatten(-1, (self.groups, -1)).transpose(0, 1)  # (groups, frames, channels)
        frames = frames - frames.mean(1, keepdim=True)
        covariance = frames.transpose(1, 2) @ frames
        squares = covariance.square().sum() / (self.groups * covariance.shape[-1])
        mean = covariance.diagonal(dim1=1, dim2=2).mean()
        return (squares / mean.square().clamp(min=1e-20) - self.limit).clamp(min=0)


class Ceiling(Regulariser):
    """Pull back magnitudes above ``limit`` with a constant force."""

    def __init__(self, limit: float, *, share: float = 0.1, strength: float = 1e-4):
        super().__init__(share)
        self.limit, self.strength = limit, strength

    def nudge(self, x, grad):
        """Towards zero, where the limit is exceeded."""
        return self.strength * x.sign() * (x.abs() > self.limit)


def limited(parameter, low: float, high: float):
    """A parameter whose gradient, once it has left [low, high], only ever leads back."""
    return _Limited.apply(parameter, low, high)


def switch_off(network: nn.Module) -> None:
    """Let every regulariser in a network rest."""
    for part in network.modules():
        if isinstance(part, Regulariser):
            part.share = 0.0


def _normal_quantile(probability):
    if probability in (0, 1):
        return math.copysign(math.inf, probability - 0.5)
    return NormalDist().inv_cdf(probability)


def _slope(discomfort, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(discomfort(x), x)[0]


class _Nudged(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, nudge):
        ctx.save_for_backward(x)
        ctx.nudge = nudge
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            nudge = ctx.nudge(at_least_float32(x), at_least_float32(grad))
        return grad + nudge.to(grad.dtype), None


class _Limited(torch.autograd.Function):
    @staticmethod
    def forward(ctx, parameter, low, high):
        ctx.save_for_backward(parameter)
        ctx.limits = low, high
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx, grad):
        (parameter,) = ctx.saved_tensors
        low, high = ctx.limits
        grad = torch.where(parameter < low, -grad.abs(), grad)  # descent then raises the parameter
        return torch.where(parameter > high, grad.abs(), grad), None, None
