"""Augmentations: (batch, rng, *, settings) → batch. Each is one step of a page's ``augment`` list, in that order.

A file here is a plugin: its one public function has the file's name. It draws from ``rng`` alone, returns a new batch,
changes what the student reads (``inputs``) and, where documented, what the teacher reads (``clean``); pseudo-labels are
changed like strong targets. Mixing is recorded in ``Batch.mixing``.

``DOMAIN`` says what a function works on: "waveform", "spectrum" (linear mel), "features" (what an encoder's network
reads), or "any" of them, cached embeddings included. A setting ``on`` chooses another domain. Functions of a later
domain cannot come before those of an earlier one, and an encoder whose embeddings are cached has no domain left: pages
are checked for both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sedflow.dataset import Batch, Inputs
from sedflow.params import EVENT_KINDS, SAY_WHEN

DOMAINS = ("waveform", "spectrum", "features")


def changed(inputs: Inputs, *, waveform: Callable | None = None, **by_encoder: Callable) -> Inputs:
    """A copy of inputs with functions applied: to the waveform, and by (name, tensor) to what each encoder reads.

    ``spectra``, ``features`` and ``embeddings`` are the names of `Inputs`; what is not named stays.
    """
    changes = {
        kind: {name: change(name, part) for name, part in getattr(inputs, kind).items()}
        for kind, change in by_encoder.items()
    }
    if waveform is not None and inputs.waveform is not None:
        changes["waveform"] = waveform(inputs.waveform)
    return dataclasses.replace(inputs, **changes)


def changed_alike(batch: Batch, change: Callable[[Inputs], Inputs]) -> Batch:
    """A copy of a batch with a function applied to what both networks read; what they share, they go on sharing."""
    inputs = change(batch.inputs)
    return batch.replace(inputs=inputs, clean=inputs if batch.clean is batch.inputs else change(batch.clean))


def over_time(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """A copy of inputs with a function of (batch, time, …) applied to everything there is."""
    bands_last = lambda name, part: change(part.transpose(1, 2)).transpose(1, 2)  # noqa: E731
    return changed(
        inputs,
        waveform=change,
        spectra=bands_last,
        features=bands_last,
        embeddings=lambda name, part: change(part),
    )


def of_encoders(change: Callable[[Tensor], Tensor], encoders: list[str] | None) -> Callable:
    """A function of (name, tensor) that spares encoders that are not among the named; None means all."""
    return lambda name, part: change(part) if encoders is None or name in encoders else part


def grouped_rows(batch: Batch, groups: str | list[list[str]]) -> list[np.ndarray]:
    """Row numbers of each group of a batch, in order of appearance.

    Parameters
    ----------
    groups : str or list of list of str
        "kind": rows with the same kind of labels; "source"; "batch": all rows; or lists of sources that make up a group
        each; rows of other sources are in none.
    """
    if groups == "batch":
        return [np.arange(len(batch))]
    if isinstance(groups, str):
        keys = batch.kinds if groups == "kind" else batch.sources
        return [np.flatnonzero(np.array(keys) == key) for key in dict.fromkeys(keys)]
    rows = [np.flatnonzero(np.isin(batch.sources, sources)) for sources in groups]
    return [members for members in rows if len(members)]


def check_mixable(batch: Batch, rows: np.ndarray) -> None:
    """Refuse to mix labels of different kinds: clips with event times with others, or with pseudo-labels alone.

    Raises
    ------
    ValueError    with the sources of the rows
    """
    kinds = {"events" if batch.kinds[row] in EVENT_KINDS else batch.kinds[row] for row in rows}
    if len(kinds) > 1:
        sources = list(dict.fromkeys(batch.sources[row] for row in rows))
        raise ValueError(f"groups: {sources} cannot be mixed, their labels differ in kind: {sorted(kinds)}")


def rows_that_say_when(batch: Batch, sources: list[str] | None) -> np.ndarray:
    """(batch,) bool: rows of these sources (None: of all) whose labels have times."""
    return np.array(
        [
            kind in SAY_WHEN and (sources is None or source in sources)
            for kind, source in zip(batch.kinds, batch.sources, strict=True)
        ]
    )


def tensor(batch: Batch, values: np.ndarray) -> Tensor:
    """Drawn numbers beside a batch's tensors: floats in single precision."""
    values = torch.as_tensor(values, device=batch.strong.device)
    return values.float() if values.is_floating_point() else values
