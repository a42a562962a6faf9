"""What decides which weights of a run are kept: one number per validation, the larger the better."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

_SMALLER_IS_BETTER = ("bce",)


def monitored(how: dict, metrics: Mapping[str, Mapping[str, float]]) -> float:
    """The number that a validation counts.

    Parameters
    ----------
    how : dict    see `sedflow.params.Monitor`
    metrics : mapping    network → metric → value
    """
    networks = list(metrics) if how["network"] == "either" else [how["network"]]
    signs = {name: -1 if name in _SMALLER_IS_BETTER else 1 for name in how["metrics"]}
    return max(sum(sign * metrics[of][name] for name, sign in signs.items()) / len(signs) for of in networks)


def clip_errors(logits, batch) -> list[float]:
    """Binary cross-entropy of each clip's frames in the classes that its labels speak of."""
    errors = F.binary_cross_entropy_with_logits(logits.float(), batch.strong, reduction="none")
    counted = (batch.valid.unsqueeze(2) & batch.known.unsqueeze(1)).expand_as(errors)
    return torch.stack([row[chosen].mean() for row, chosen in zip(errors, counted, strict=True)]).tolist()
