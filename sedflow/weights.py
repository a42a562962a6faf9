"""Weights: read from any file without executing it, and copied into a module strictly."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from sedflow.pickled import archived, called_by, is_pickle

CONVERTED = "sedflow_encoder."  # precedes the names of tensors in an encoder file of ours
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began its files before they were archives
_AGAIN = "copy, make or convert it again"
_LISTED = 8  # names shown of a long list


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit: the message lists the tensors and says what to do."""


def read_checkpoint(path: str | Path) -> dict:
    """Read a weights file without executing anything in it.

    Parameters
    ----------
    path : path    of safetensors, or of what ``torch.save`` wrote; its first bytes decide which, not its name

    Returns
    -------
    dict
        As stored: tensors by name, or a dict that has them under ``model``, ``state_dict`` …; tensors on the CPU.

    Raises
    ------
    CheckpointError    no file, truncated, not a checkpoint, or a pickle that needs more than tensors and plain values
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; fetch the weights first or correct the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty; fetch it again")
    try:
        content = _read_safetensors(path) if is_safetensors(path) else _read_torch(path)
    except Exception as error:  # damaged bytes make the readers raise whatever they stumble over
        raise CheckpointError(f"{path}: {_diagnosis(path)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not named tensors; is it a weights file?")
    return content


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as safetensors do, whatever its name: the length of a JSON table, then the table."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{"


def read_metadata(path: str | Path) -> dict:
    """The specification in a safetensors file of ours, as stored; empty for other files.

    Raises
    ------
    CheckpointError    no such file, not a safetensors file, damaged, or its specification is none
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            specification = json.loads((file.metadata() or {}).get("specification", "{}"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        cure = _AGAIN if is_safetensors(path) else "`sedflow convert` makes a detector"
        raise CheckpointError(f"{path}: not a detector of sedflow, or damaged ({error}); {cure}") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: its specification is not JSON ({error}); {_AGAIN}") from None
    if not isinstance(specification, dict):
        raise CheckpointError(f"{path}: its specification is a {type(specification).__name__}, not a table; {_AGAIN}")
    return specification


def _read_safetensors(path: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(path)


def _read_torch(path: Path) -> dict:
    # plain containers of settings that published checkpoints carry beside their tensors
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _diagnosis(path: Path) -> str:
    """What is wrong with a file that could not be read, and the cure."""
    with path.open("rb") as file:
        start = file.read(len(_LEGACY))
    members = archived(path)
    if wanted := called_by(path):
        return (
            f"reading it would run {shortened(wanted)}, which weights do not need, so it was not read; take the file "
            "from its official source, or, where you trust it, read it with torch.load(…, weights_only=False) and save "
            "its tensors alone: the state_dict() of a module, the entry state_dict of a training checkpoint"
        )
    if members is not None and any("/code/" in name for name in members):
        return "a TorchScript program, not weights; load it with torch.jit.load and save its state_dict()"
    if members is not None and not any(name.endswith("data.pkl") for name in members):
        return "an archive that torch.save did not write; check what was downloaded, or unpack it"
    if members is not None or start == _LEGACY or start[:2] == b"PK" or is_safetensors(path):
        return f"truncated or damaged ({path.stat().st_size} bytes); fetch it again and compare its sha256"
    if is_pickle(path):
        return "a pickle that torch.save did not write; save the tensors in it with torch.save or as safetensors"
    return "not a checkpoint (neither safetensors nor written by torch.save); check what was downloaded"


def load_weights(encoder: nn.Module, path: str | Path) -> None:
    """Load an encoder's weights: an official file, or what `sedflow convert` made of one.

    Raises
    ------
    CheckpointError    unreadable, not of this encoder, or of one with other settings
    """
    if is_safetensors(path) and "detector" in read_metadata(path):
        raise CheckpointError(
            f"{path}: a detector of sedflow, not weights of an encoder; name the official file, or an encoder that "
            "`sedflow convert` wrote"
        )
    tensors = read_checkpoint(path) if is_safetensors(path) else {}
    own = {name.removeprefix(CONVERTED): tensor for name, tensor in tensors.items() if name.startswith(CONVERTED)}
    if own and len(own) == len(tensors):
        _check_settings(encoder, path)
        load_strict(encoder, drawn_projection(encoder) | own, path)
    else:
        encoder.load_official(path)


def _check_settings(encoder: nn.Module, path: str | Path) -> None:
    """Refuse a converted file whose weights belong to settings that the encoder has not and no shape tells."""
    theirs = read_metadata(path).get("trained_with", {})
    if not isinstance(theirs, dict):
        raise CheckpointError(f"{path}: its specification says trained_with {theirs!r}, which is not a table; {_AGAIN}")
    ours = getattr(encoder, "trained_with", {})
    differing = [
        f"{name} {theirs[name]!r}, the encoder {ours[name]!r}"
        for name in ours
        if theirs.get(name, ours[name]) != ours[name]
    ]
    if differing:
        raise CheckpointError(
            f"{path}: the weights were trained with {'; '.join(differing)}; build the encoder with the same settings"
        )


def drawn_projection(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The fixed projection that an encoder may end in, as it was drawn: the one layer that a file may lack."""
    return {name: tensor for name, tensor in encoder.state_dict().items() if name.startswith("projection.")}


def load_strict(module: nn.Module, tensors: dict[str, torch.Tensor], path: str | Path) -> None:
    """Copy ``tensors`` into ``module``: each name must be present once, in the right shape, with none left over.

    Whole numbers are not taken for fractions: those of a quantised file mean something only with its scales.

    Parameters
    ----------
    module : Module
    tensors : dict    by the names of ``module.state_dict()``
    path : path    where they came from, for the message

    Raises
    ------
    CheckpointError    lists missing, unexpected, mis-shaped and quantised tensors; the module is unchanged
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
        "of another type": {
            f"{name} {tensors[name].dtype} instead of {expected[name].dtype}"
            for name in expected.keys() & tensors.keys()
            if _shape(tensors[name]) == _shape(expected[name])
            and expected[name].is_floating_point() > tensors[name].is_floating_point()
        },
    }
    if any(faults.values()):
        lines = [
            f"{path}: the weights do not fit {type(module).__name__}; are they quantised, of another size or another "
            "encoder?"
        ]
        lines += [f"  {len(names)} {fault}: {shortened(names)}" for fault, names in faults.items() if names]
        raise CheckpointError("\n".join(lines))
    module.load_state_dict(tensors)


def _shape(value) -> tuple | str:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


def shortened(names: set[str] | list[str]) -> str:
    """Names in their order, the first eight of a long list."""
    more = f" … and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(sorted(names)[:_LISTED]) + more
