"""The file a detector travels in: its tensors and the specification that says how to use them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import sedflow
from sedflow.detector import Detector, build_detector
from sedflow.encoders import CheckpointError


@dataclasses.dataclass(frozen=True)
class Specification:
    """What travels with a detector: enough to use it with nothing but an audio file.

    ``networks`` names the sets of tensors in the file: "student", and "teacher" if there is one.
    ``postprocess`` is set once post-processing was tuned on validation.
    """

    system: str
    stage: str
    classes: list[str]
    sample_rate: int
    frame_rate: float
    clip_seconds: float
    detector: dict
    inference: dict
    networks: list[str]
    seed: int
    step: int
    version: str = sedflow.__version__
    postprocess: dict | None = None


def save_detectors(path: Path, networks: dict[str, Detector], specification: Specification) -> None:
    """Write detectors and their specification as one safetensors file, through a temporary name."""
    from safetensors.torch import save

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{key}": value.detach().contiguous().clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    metadata = {"specification": json.dumps(dataclasses.asdict(specification), sort_keys=True)}
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(save(tensors, metadata))
    unfinished.replace(path)


def read_specification(path: Path) -> Specification:
    """Read only the specification of a detector file.

    Raises
    ------
    CheckpointError    no such file, not a detector file, or one of another version of the format
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a detector of sedflow ({error}); official files are loaded with `weights:` on a page"
        ) from None
    if "specification" not in metadata:
        raise CheckpointError(
            f"{path}: a safetensors file without a specification; it was not written by `sedflow train`"
        )
    fields = {field.name for field in dataclasses.fields(Specification)}
    content = json.loads(metadata["specification"])
    if set(content) != fields:
        odd = sorted(set(content) ^ fields)
        raise CheckpointError(
            f"{path}: its specification differs in {odd}; it is from sedflow {content.get('version')}"
        )
    return Specification(**content)


def load_detector(path: Path, network: str) -> tuple[Detector, Specification]:
    """Load one network of a detector file, in evaluation mode.

    Raises
    ------
    CheckpointError    the file lacks that network, or a tensor is missing, unexpected or mis-shaped
    """
    from safetensors.torch import load_file

    specification = read_specification(path)
    if network not in specification.networks:
        raise CheckpointError(f"{path}: no network {network!r}, it holds {specification.networks}")
    detector = build_detector(specification.detector, len(specification.classes))
    tensors = {
        key.removeprefix(f"{network}."): value
        for key, value in load_file(path).items()
        if key.startswith(f"{network}.")
    }
    load_tensors(detector, tensors, path)
    return detector.eval(), specification


def load_tensors(detector: Detector, tensors: dict, path) -> None:
    """Load a whole detector strictly; ``CheckpointError`` lists what is missing, unexpected or mis-shaped."""
    own = detector.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{k}: {tuple(tensors[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in tensors and tensors[k].shape != own[k].shape
    ]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{path}: does not fit this detector. {len(missing)} tensors missing {missing[:5]}, {len(unexpected)} "
            f"unexpected {unexpected[:5]}, {len(shapes)} of another shape {shapes[:5]}; use its own page"
        )
    detector.load_state_dict(tensors)
