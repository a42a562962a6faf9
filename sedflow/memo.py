"""What inference computes of parameters once, before it uses it many times."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_RUNS, _RUN = 8, 512  # of a large parameter's numbers, compared in each call: neighbours, as they are quicker to read


class Memo:
    """A result that is kept until the parameters it was computed from change; a copy or a pickle begins anew.

    A change is told by PyTorch's count of changes and, as fused optimisers and what is done to ``parameter.data``
    leave that as it was, by a sample of the numbers: of a parameter of up to 4,096 all, of a larger one as many. What
    is missed: a change of ``.data`` that leaves the whole sample as it was. An average of all weights that moves 0.2 %
    of a parameter's numbers does so once in 4,000 times, and is seen with the changes after it; one row that is
    written to ``.data`` alone may never be, unless `forget` is called.
    """

    def __init__(self):
        self._kept = None

    def __call__(self, compute: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
        """``compute(*parameters)``, now or before."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or not all(map(_can_be_watched, parameters)):
            self.forget()
            return compute(*parameters)
        state = [(parameter.data_ptr(), parameter._version, parameter.dtype) for parameter in parameters]
        kept = self._kept
        if kept is None or kept[0] != state or not all(map(torch.equal, *kept[1:3])):
            views = [_sample(parameter) for parameter in parameters]
            self._kept = kept = state, views, [view.clone() for view in views], compute(*parameters)
        return kept[3]

    def forget(self) -> None:
        """Compute anew in the next call: a call with gradients is followed by a step of an optimiser."""
        if not torch.compiler.is_compiling():  # a graph remembers nothing
            self._kept = None

    def __reduce__(self):
        return Memo, ()


def _can_be_watched(parameter: Tensor) -> bool:
    """Whether a change is seen, and soon enough: on a GPU the numbers would have to be waited for."""
    # a change of tensors made under inference mode leaves no trace; other types stand for numbers that are not there
    real = type(parameter) in (Tensor, nn.Parameter) and not parameter.is_inference()
    return real and parameter.device.type == "cpu" and parameter.is_contiguous()


def _sample(parameter: Tensor) -> Tensor:
    """A view of some of its numbers: they are what the parameter's are, as long as it stays where it is in memory."""
    flat = parameter.detach().view(-1)
    count = flat.shape[0]
    return flat if count <= _RUNS * _RUN else flat.unfold(0, _RUN, count // _RUNS)
