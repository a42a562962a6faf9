"""A finished detector: the network that validation chose, with its specification and its tuned post-processing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from sedflow.specification import load_detector, save_detectors


def export(checkpoint: Path, postprocess: Path, out: Path) -> None:
    """Write the file that ``sedflow detect`` and ``sedflow score`` use.

    Parameters
    ----------
    checkpoint : Path    ``best.safetensors`` of a run
    postprocess : Path    ``postprocess.json`` of the same run: a post-processor per network, and which network to use
    out : Path    ``detector.safetensors``
    """
    tuned = json.loads(Path(postprocess).read_text(encoding="utf-8"))
    chosen = tuned["chosen"]
    detector, specification = load_detector(checkpoint, chosen)
    finished = dataclasses.replace(specification, networks=[chosen], postprocess=tuned[chosen])
    save_detectors(out, {chosen: detector}, finished)
