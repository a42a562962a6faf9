"""What batches in parts do to BatchNorm: processes share its statistics; what differs is said before a run begins."""

from __future__ import annotations

import logging

import torch
from lightning.pytorch.plugins import LayerSync
from torch import nn

from sedflow.layers import batch_normed

log = logging.getLogger(__name__)


class SharedStatistics(LayerSync):
    """Batch norms that see a batch whole though processes share it: `nn.SyncBatchNorm`, for processors.

    The Trainer applies it to the student and the teacher of a run with several processes, each of which must then make
    every training pass. Norms that the page holds still, or that score, talk to nobody.
    """

    def __init__(self):
        self._own: dict[nn.Module, type] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Change the norms of a model; their tensors stay what and where they are."""
        for part in model.modules():
            if _can_share(part):
                self._own[part] = type(part)
                part.__class__ = SharedBatchNorm
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Give the norms their own class back."""
        while self._own:
            part, own = self._own.popitem()
            part.__class__ = own
        return model


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of the maps of all processes in training, of any shape; every process must come by."""

    def _check_input_dim(self, maps):
        if maps.dim() < 2:
            raise ValueError(f"expected maps (batch, channels, …), got {maps.dim()} axes")

    def forward(self, maps):
        """(batch, channels, …) → the same."""
        if not self.training:
            return super().forward(maps)
        self._check_input_dim(maps)
        if maps.dim() == 2:  # values of one long clip
            return batch_normed(self, maps.t().unsqueeze(0), _over_processes).squeeze(0).t()
        return batch_normed(self, maps, _over_processes)


def _can_share(part: nn.Module) -> bool:
    usual = isinstance(part, nn.modules.batchnorm._BatchNorm) and not isinstance(part, nn.SyncBatchNorm)
    return usual and part.affine and part.track_running_stats and part.momentum is not None


def _over_processes(*sums: torch.Tensor) -> tuple[torch.Tensor, ...]:
    together = torch.cat(sums)
    torch.distributed.all_reduce(together)
    return together.split([len(part) for part in sums])


def warn_of_parts(network: nn.Module, stage: dict) -> None:
    """Say what a stage's accumulation and processes do to the statistics of norms that train."""
    accumulate, processes, size = stage["accumulate"], stage["processes"], sum(stage["sources"].values())
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training]
    alone = [norm for norm in norms if not isinstance(norm, nn.SyncBatchNorm | SharedBatchNorm)]
    if processes > 1 and alone:
        log.warning(
            "processes: %d share a batch of %d clips. %d BatchNorms (without weights, statistics or momentum) see only "
            "their process' part, and the statistics of the first process are kept. Results will differ from those of "
            "one process",
            processes, size, len(alone),
        )  # fmt: skip
    if accumulate > 1 and norms:
        log.warning(
            "accumulate: %d batches of %d clips make a step. BatchNorm sees each batch separately, not the %d clips "
            "of the step, and its statistics move %d times a step; the teacher and all schedules move once. Results "
            "will differ from those of one large batch (ATST-SED: PSDS1 0.579 instead of 0.583)",
            accumulate, size, accumulate * size, accumulate,
        )  # fmt: skip
