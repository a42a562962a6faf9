"""What stays in float32 when the network around it is halved."""

from __future__ import annotations

import torch


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
