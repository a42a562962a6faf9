"""What stays in float32 when the network around it is in half precision, and products that are float32 throughout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Within it a GPU multiplies float32 as float32: by default PyTorch's convolutions round factors to ten bits.

    What is computed here and there, as features of one cache may be, then differs by rounding alone.
    """
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


class InFloat32:
    """Mixed into a module: ``.half()``, ``.bfloat16()`` and the like leave its numbers in float32.

    Statistics of a batch norm span orders of magnitude; halved, they move what a whole channel says.
    """

    def _apply(self, fn, recurse=True):
        def kept(tensor):
            moved = fn(tensor)
            halved = moved.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(moved.device, torch.float32) if halved else moved

        return super()._apply(kept, recurse)
