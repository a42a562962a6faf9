"""Official checkpoints: where in the file the tensors of one module are."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from sedflow.weights import CheckpointError, drawn_projection, shortened

# buffers that a profiler left in some published files
_PROFILER = ("total_ops", "total_params")
# what may stand beside a module's own tensors when nothing precedes their names
_HEADS = ("head.", "head_dist.", "strong_head.", "weak_head.", "seq_model.")
# names of official wrappers, and of whose weights they are, that may precede those of a part
_PREFIXES = ("net", "model", "fmn", "frame_mn", "student", "teacher", "sed_student", "sed_teacher")
# what torch.compile and data parallel training put before the names of what they wrap
_TORCHS_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")
_PROJECTION = "head_linear_layer"  # CP-JKU's name of a layer behind the encoder that never trains


def module_tensors(
    content: dict, anchor: str, path: str | Path, *, network: str = "teacher", without: tuple[str, ...] = ()
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Pick one module's tensors out of a checkpoint, whatever else it contains.

    Parameters
    ----------
    content : dict    what `read_checkpoint` gave: tensors, or dicts of tensors, by name
    anchor : str    a name the module certainly has; what precedes it in the file is the prefix of all its names
    path : path    for the message
    network : str    "teacher" or "student", where the file holds both
    without : tuple of str    prefixes of other modules that have the anchor too

    Returns
    -------
    dict
        The module's tensors, without the prefix; classifier heads are not among them.
    list of str
        The names of everything else.

    Raises
    ------
    CheckpointError    no such module, or several and none is the one asked for
    """
    named = all_tensors(content)
    prefixes = [name.removesuffix(anchor) for name in named if name == anchor or name.endswith("." + anchor)]
    prefixes = [prefix for prefix in prefixes if not prefix.endswith(without)] if without else prefixes
    ours = [prefix for prefix in prefixes if role_of(prefix) in (network, None)]
    if not ours:
        kind = f"no {network} in it, only " + ", ".join(prefixes) if prefixes else f"no tensor {anchor} in it"
        raise CheckpointError(f"{path}: {kind}; is it another encoder's file?")
    ours.sort(key=lambda prefix: (role_of(prefix) != network, len(prefix)))
    first = ours[0]
    for other in ours[1:]:
        # Lightning files of ATST-SED hold each network twice
        if role_of(other) == role_of(first) and not torch.equal(named[first + anchor], named[other + anchor]):
            raise CheckpointError(
                f"{path}: {first!r} and {other!r} are different weights; keep one of them in the file"
            )
    tensors = {name.removeprefix(first): tensor for name, tensor in named.items() if name.startswith(first)}
    tensors = {n: tensor for n, tensor in tensors.items() if not (n.startswith(_HEADS) or n.endswith(_PROFILER))}
    return tensors, sorted(named.keys() - {first + name for name in tensors})


def projection_tensors(
    encoder: nn.Module, content: dict, path: str | Path, network: str
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of an encoder's fixed projection: those of the file, or as drawn where it has none.

    Returns
    -------
    dict
        By names of the encoder; empty if it ends in no projection.
    list of str
        Their names in the file.
    """
    drawn, anchor = drawn_projection(encoder), f"{_PROJECTION}.weight"
    names = list(all_tensors(content))
    if not drawn or not any(name == anchor or name.endswith("." + anchor) for name in names):
        return drawn, []
    beside, others = module_tensors(content, anchor, path, network=network)
    own = {name: tensor for name, tensor in beside.items() if name.startswith(f"{_PROJECTION}.")}
    taken = [name for name in set(names) - set(others) if f"{_PROJECTION}." in name]
    return {name.replace(_PROJECTION, "projection"): tensor for name, tensor in own.items()}, taken


def configuration(content: dict, path: str | Path) -> dict:
    """What a file says under ``cfg`` of how its network is built; empty where it says nothing.

    Raises
    ------
    CheckpointError    it is no table
    """
    cfg = content.get("cfg")
    cfg = vars(cfg) if isinstance(cfg, argparse.Namespace) else cfg
    if not isinstance(cfg, dict | None):
        raise CheckpointError(f"{path}: its cfg is a {type(cfg).__name__}, not a table; fetch the file again")
    return cfg or {}


def unwrapped(content: dict) -> dict[str, torch.Tensor]:
    """Tensors by name: those under ``state_dict`` and ``model`` without the wrapper's name, each once."""
    inner = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, torch.Tensor)}
    return _without_torchs_wrappers(tensors) or all_tensors(content)


def all_tensors(content: dict) -> dict[str, torch.Tensor]:
    """Tensors by their full names, but for the names of PyTorch's wrappers; settings and the like are skipped."""
    return _without_torchs_wrappers(dict(_flat(content)))


def _without_torchs_wrappers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {_TORCHS_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    return named if len(named) == len(tensors) else tensors


def _flat(content: dict, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")


def part_of(tensors: dict[str, torch.Tensor], part: str, network: str | None = None) -> dict[str, torch.Tensor]:
    """Tensors named ``<prefix>.<part>.<rest>``, by ``<rest>``; a prefix is any run of roles and official wrappers.

    ``part_of(tensors, "seq_model")`` finds the sequence head in a file of EfficientSED or PretrainedSED. Of a file with
    student and teacher it gives what belongs to ``network``, or to the teacher.
    """
    name_of_part = re.compile(rf"((?:(?:{'|'.join(_PREFIXES)})\.)*){re.escape(part)}\.(.+)")
    found: dict[str | None, dict] = {}
    for name, tensor in tensors.items():
        if match := name_of_part.fullmatch(str(name)):
            found.setdefault(role_of(match[1]), {})[match[2]] = tensor
    roles = (network, None) if network else ("teacher", None, "student")
    return next((found[role] for role in roles if role in found), {})


def part_or_refusal(
    tensors: dict[str, torch.Tensor], part: str, path: str | Path, network: str | None = None
) -> dict[str, torch.Tensor]:
    """What `part_of` gives.

    Raises
    ------
    CheckpointError    there is such a part, but what precedes its name is unknown, or it is not of this network
    """
    own = part_of(tensors, part, network)
    prefixes = {f".{name}".partition(f".{part}.")[0][1:] for name in tensors if f".{part}." in f".{name}"}
    if own or not prefixes:
        return own
    if part_of(tensors, part):
        raise CheckpointError(f"{path}: no {network} in it, only {shortened(prefixes)}; is it another encoder's file?")
    raise CheckpointError(
        f"{path}: {shortened(prefixes)} before the names of {part} is unknown; take it off the names of the tensors, "
        f"or rename it (known: {', '.join(_PREFIXES)})"
    )


def role_of(prefix: str) -> str | None:
    """Whose weights they are: "sed_teacher.", "model.teacher.encoder." … → "teacher"."""
    for part in prefix.split("."):
        if part.removeprefix("sed_") in ("student", "teacher"):
            return part.removeprefix("sed_")
    return None
