"""Official output vectors: found by what their JSON says, compared within the bounds that their JSON gives."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Weights, inputs and outputs of one official model."""

    name: str
    about: dict
    tensors: dict

    @property
    def config(self) -> dict:
        return self.about["config"]

    @property
    def weights(self) -> dict:
        return {name[2:]: tensor for name, tensor in self.tensors.items() if name.startswith("w/")}

    def inputs(self, kind: str) -> dict:
        """Inputs of a kind by case: ``inputs("/wave")``, ``inputs("_in_frames")``."""
        found = {name[3:]: tensor for name, tensor in self.tensors.items() if name.startswith("in/")}
        return {name.removesuffix(kind): tensor for name, tensor in found.items() if name.endswith(kind)}

    def output(self, name: str):
        return self.tensors["out/" + name]

    def save_weights(self, folder: Path, rename=lambda name: name) -> Path:
        path = folder / f"{self.name}.safetensors"
        save_file({rename(name): tensor.clone() for name, tensor in self.weights.items()}, path)
        return path

    def check(self, name: str, actual, given: str = "") -> None:
        """Compare with ``out/<name>``: largest and mean difference within the JSON's bounds.

        ``given="_given_mel"``: the tight bounds for a network that was fed the recorded features.
        """
        expected, bounds = self.output(name), self.about["outputs"][name]
        assert actual.shape == expected.shape, f"{self.name} {name}: {tuple(actual.shape)}"
        difference = (actual.double() - expected.double()).abs()
        assert difference.max() <= bounds["suggested_atol" + given], f"{self.name} {name}{given}: {difference.max()}"
        mean_bound = bounds["suggested_mean_atol" + given]
        assert difference.mean() <= mean_bound, f"{self.name} {name}{given}: mean {difference.mean()}"


def find_vectors(golden_dir: Path, wanted) -> list[Vectors]:
    """All vectors whose JSON satisfies ``wanted``; none at all fails the test."""
    found = []
    for path in sorted(golden_dir.glob("*.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        if path.name != "MANIFEST.json" and wanted(about):
            found.append(Vectors(path.stem, about, load_file(path.with_suffix(".safetensors"))))
    if not found:
        pytest.fail(f"{golden_dir}: no vectors of the wanted kind")
    return found
