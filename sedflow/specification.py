"""The file of a detector: its tensors and the specification of how to use them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import sedflow
from sedflow.detector import Detector, build_detector
from sedflow.files import replacing
from sedflow.weights import CONVERTED, CheckpointError, load_strict, read_metadata


@dataclasses.dataclass(frozen=True)
class Specification:
    """What is stored with a detector: enough to use it with nothing but an audio file.

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
    tensors = {
        f"{name}.{key}": value.detach().contiguous().clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    metadata = {"specification": json.dumps(dataclasses.asdict(specification), sort_keys=True)}
    with replacing(path) as unfinished:
        unfinished.write_bytes(save(tensors, metadata))


def save_encoder(path: Path, encoder, settings: dict, origin: str) -> None:
    """Write an encoder with its settings as one safetensors file, which ``weights:`` on a page may name."""
    from safetensors.torch import save

    tensors = {CONVERTED + name: tensor.detach().contiguous().clone() for name, tensor in encoder.state_dict().items()}
    contents = {"encoder": settings, "origin": origin, "version": sedflow.__version__}
    contents["trained_with"] = getattr(encoder, "trained_with", {})  # an encoder from elsewhere may have none
    with replacing(path) as unfinished:
        unfinished.write_bytes(save(tensors, {"specification": json.dumps(contents, sort_keys=True)}))


def read_specification(path: Path) -> Specification:
    """Read only the specification of a detector file.

    Raises
    ------
    CheckpointError    no such file, not a detector file, or one of another version of the format
    """
    content = read_metadata(path)
    if not content or "encoder" in content:
        what = "an encoder, not a detector" if content else "a safetensors file without a specification"
        raise CheckpointError(f"{path}: {what}; a detector is what `sedflow train` and `sedflow convert` write")
    fields = {field.name for field in dataclasses.fields(Specification)}
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
    load_strict(detector, tensors, path)
    return detector.eval(), specification
