"""Weights: read from any file without running it, and copied into a module strictly."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path

import torch
from torch import nn

CONVERTED = "sedflow_encoder."  # precedes the names of tensors in an encoder file of ours
_LISTED = 8  # names shown of a long list
_WRAPPERS = ("net", "model", "fmn", "frame_mn")


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit: the message lists the tensors and says what to do."""


def read_checkpoint(path: str | Path) -> dict:
    """Read a weights file without running anything that is in it.

    Parameters
    ----------
    path : path    of a ``.safetensors`` file, or of what ``torch.save`` wrote

    Returns
    -------
    dict
        As stored: tensors by name, or a dict that has them under ``model``, ``state_dict`` …; tensors on the CPU.

    Raises
    ------
    CheckpointError    no file, truncated, no checkpoint, or a pickle that needs more than tensors and plain values
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; fetch the weights first or correct the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty; fetch it again")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: {_diagnosis(path, error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not named tensors; is it a weights file?")
    return content


def _read_safetensors(path: Path) -> dict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _read_torch(path: Path) -> dict:
    # plain containers of settings that published checkpoints carry beside their tensors
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _diagnosis(path: Path, error: Exception) -> str:
    """What is wrong with the file, and the cure."""
    wanted = re.search(r"(?:GLOBAL|global:?|class) [`']?([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and wanted and "." in wanted[1]:
        return (
            f"reading it would run {wanted[1]}, which weights do not need, so it was not read; take the file from its "
            "official source, or save its tensors alone (safetensors) on a machine that may run it"
        )
    with path.open("rb") as file:
        starts_as_checkpoint = file.read(2) in (b"PK", b"\x80\x02") or path.suffix == ".safetensors"
    if starts_as_checkpoint:
        return f"truncated or damaged ({path.stat().st_size} bytes); fetch it again and compare its sha256"
    return "not a checkpoint (neither safetensors nor written by torch.save); check what was downloaded"


def load_weights(encoder: nn.Module, path: str | Path) -> None:
    """Load an encoder's weights: an official file, or what `sedflow convert` made of one.

    Raises
    ------
    CheckpointError    unreadable, or not of this encoder
    """
    tensors = read_checkpoint(path) if Path(path).suffix == ".safetensors" else {}
    own = {name.removeprefix(CONVERTED): tensor for name, tensor in tensors.items() if name.startswith(CONVERTED)}
    if own and len(own) == len(tensors):
        load_strict(encoder, drawn_projection(encoder) | own, path)
    else:
        encoder.load_official(path)


def drawn_projection(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The fixed projection that an encoder may end in, as it was drawn: the one layer that a file may lack."""
    return {name: tensor for name, tensor in encoder.state_dict().items() if name.startswith("projection.")}


def part_of(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """Tensors named ``<prefix>.<part>.<rest>``, by ``<rest>``; a prefix is any run of the official wrappers' names.

    ``part_of(tensors, "seq_model")`` finds the sequence head in a file of EfficientSED or PretrainedSED.
    """
    name_of_part = re.compile(rf"(?:(?:{'|'.join(_WRAPPERS)})\.)*{re.escape(part)}\.(.+)")
    matches = {name: name_of_part.fullmatch(str(name)) for name in tensors}
    return {match[1]: tensors[name] for name, match in matches.items() if match}


def load_strict(module: nn.Module, tensors: dict[str, torch.Tensor], path: str | Path) -> None:
    """Copy ``tensors`` into ``module``: each name must be there once, in the right shape, and none is left over.

    Parameters
    ----------
    module : Module
    tensors : dict    by the names of ``module.state_dict()``
    path : path    where they came from, for the message

    Raises
    ------
    CheckpointError    lists missing, unexpected and mis-shaped tensors; the module is unchanged
    """
    expected = module.state_dict()
    faults = {
        "missing": expected.keys() - tensors.keys(),
        "unexpected": tensors.keys() - expected.keys(),
        "of another shape": {
            f"{name} {_shape(tensors[name])} instead of {_shape(expected[name])}"
            for name in expected.keys() & tensors.keys()
            if _shape(tensors[name]) != _shape(expected[name])
        },
    }
    if any(faults.values()):
        lines = [f"{path}: the weights do not fit {type(module).__name__}; is it another size or another encoder's?"]
        lines += [f"  {len(names)} {fault}: {_shortened(names)}" for fault, names in faults.items() if names]
        raise CheckpointError("\n".join(lines))
    module.load_state_dict(tensors)


def _shape(value) -> tuple | str:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


def _shortened(names: set[str]) -> str:
    more = f" … and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(sorted(names)[:_LISTED]) + more
