"""What batches in parts do to BatchNorm: said once, before a run begins."""

from __future__ import annotations

import logging

from torch import nn

log = logging.getLogger(__name__)


def warn_of_parts(network: nn.Module, accumulate: int, processes: int, size: int) -> None:
    """Say what accumulation and processes do to the statistics of norms that train.

    Parameters
    ----------
    accumulate : int    batches of an optimiser step
    processes : int    that share a batch
    size : int    clips of a batch
    """
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training]
    if processes > 1 and any(not isinstance(norm, nn.SyncBatchNorm) for norm in norms):
        log.warning(
            "processes: %d share a batch of %d clips. Without a GPU BatchNorm sees each process' part by itself, and "
            "the first one's statistics are kept. Expect another result than from one process",
            processes, size,
        )  # fmt: skip
    if accumulate > 1 and norms:
        log.warning(
            "accumulate: %d batches of %d clips make a step. BatchNorm sees each batch by itself, not the %d clips "
            "of the step, and its statistics move %d times a step; the teacher and all schedules move once. Expect "
            "another result than from one large batch (ATST-SED: PSDS1 0.579 instead of 0.583)",
            accumulate, size, accumulate * size, accumulate,
        )  # fmt: skip
