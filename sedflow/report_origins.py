"""What a system's numbers came from, for the report: data, learning curves, settings, versions and hashes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

import sedflow
from sedflow.events import Clip, read_events, read_weak
from sedflow.figures import GREY, Line, heatmap, learning_charts, most_frequent
from sedflow.files import sha256
from sedflow.mistakes import cooccurrence
from sedflow.params import HELD_OUT
from sedflow.runs import NETWORKS, RunFolder
from sedflow.tables import read_header

PACKAGES = ("torch", "lightning", "numpy", "scaper", "librosa", "soundfile", "sed_scores_eval", "snakemake", "dvc")
NETWORK_STYLES = {"student": GREY, "teacher": "s1", "the run": "s3"}


def source_labels(manifests: Path, source: str) -> tuple[str, dict[str, list[str]]]:
    """Kind of a source's labels and the labels of each clip, one per event (strong) or per class (weak)."""
    path = Path(manifests) / f"{source}.tsv"
    header = read_header(path) if path.is_file() else []
    if "onset" in header:
        return "strong", {clip: [event.label for event in events] for clip, events in read_events(path).items()}
    if "event_labels" in header:
        return "weak", {clip: sorted(labels) for clip, labels in read_weak(path).items()}
    return "none", {}


def data_section(clips: Mapping[Path, Sequence[Clip]], classes: Sequence[str]) -> dict:
    """Counts per source and class, and the classes that sound together.

    Parameters
    ----------
    clips : mapping ``data/manifests/<corpus>`` → its clips
    """
    rows, labels = [], {}
    for folder, of_corpus in clips.items():
        own = sorted({c.source for c in of_corpus}, key=lambda name: (name in HELD_OUT, name == "test", name))
        for source in own:
            name = f"{folder.name}: {source}" if len(clips) > 1 else source
            labels[name] = source_labels(folder, source)
            rows.append(_source_row(name, [c for c in of_corpus if c.source == source], *labels[name]))
    labelled = [name for name in labels if labels[name][0] != "none"]
    shown = most_frequent(classes, _count(of_clip for name in labelled for of_clip in labels[name][1].values()))
    of_source = [_count(labels[name][1].values()) for name in labelled]
    counts = np.array([[of[label] for label in shown] for of in of_source], dtype=int).reshape(len(labelled), -1)
    held = {split: [name for name in labelled if name.split(": ")[-1] == split] for split in HELD_OUT}
    training = [name for name in labelled if name not in (*held["validation"], *held["test"])]
    together = {"labelled training clips": training, "test": held["test"]}
    sets = {part: [found for name in names for found in labels[name][1].values()] for part, names in together.items()}
    return {
        "sources": rows,
        "class_counts": heatmap("Events (strong) or clips (weak) of each class", labelled, shown, counts),
        "cooccurrences": [
            heatmap(f"Together in {part}", shown, shown, cooccurrence(found, shown), by_row=False)
            for part, found in sets.items()
            if found
        ],
    }


def _source_row(name: str, clips: Sequence[Clip], kind: str, labels: dict[str, list[str]]) -> dict:
    return {
        "name": name,
        "kind": kind,
        "clips": len(clips),
        "hours": sum(clip.seconds for clip in clips) / 3600,
        "events": sum(map(len, labels.values())) if kind == "strong" else None,
        "recordings": len({recording for clip in clips for recording in clip.recordings}) or "–",
    }


def _count(labels: Iterable[Iterable[str]]) -> Counter:
    return Counter(label for of_clip in labels for label in of_clip)


def learning_section(runs: Sequence[RunFolder]) -> dict:
    """A block of charts per variant and stage: student and teacher over each other, seeds as fainter lines."""
    blocks: dict[tuple[str, str], list[RunFolder]] = {}
    for run in runs:
        blocks.setdefault((run.variant, run.stage), []).append(run)
    several = len({variant for variant, _ in blocks}) > 1
    learning = [
        {"title": f"{variant}, {stage}" if several else stage, "charts": _learning_charts(members)}
        for (variant, stage), members in blocks.items()
    ]
    legend = [{"name": name, "style": style} for name, style in NETWORK_STYLES.items()]
    return {"learning": learning, "network_legend": legend}


def _learning_charts(runs: Sequence[RunFolder]) -> list[dict]:
    quantities: dict[str, list[Line]] = {}
    for run in runs:
        for column, (steps, values) in run.curves().items():
            parts = column.split("/")
            network = next((part for part in parts if part in NETWORKS), "the run")
            style = NETWORK_STYLES[network] + ("" if run is runs[0] else " faint")
            style += " dots" if len(steps) == 1 else ""
            quantity = "/".join(part for part in parts if part not in NETWORKS)
            quantities.setdefault(quantity, []).append(Line(f"{network}, seed {run.seed}", steps, values, style))
    return learning_charts(quantities)


def provenance_section(
    runs: Sequence[RunFolder], shown_run: RunFolder, clips: Mapping[Path, Sequence[Clip]], page: dict
) -> dict:
    """Versions, hashes of data and detectors, and every setting."""
    first: dict[tuple[str, str], RunFolder] = {}
    for run in runs:
        first.setdefault((run.variant, run.stage), run)
    return {
        "versions": [("sedflow", sedflow.__version__), ("Python", platform.python_version()), *_versions()],
        "detectors": [_detector_row(run) for run in runs],
        **_postprocess_rows(shown_run),
        "data_hashes": [line for folder, own in clips.items() for line in _data_hashes(folder, own, len(clips) > 1)],
        "page_settings": _pretty(page),
        "run_settings": [(f"{run.variant}/{run.stage}", _pretty(run.read("settings.json"))) for run in first.values()],
    }


def _versions() -> list[tuple[str, str]]:
    installed = []
    for package in PACKAGES:
        try:
            installed.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _detector_row(run: RunFolder) -> dict:
    path = run.file("best.safetensors")
    with open(path, "rb") as file:  # the head of a safetensors file is its length (8 bytes) and JSON
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    network = run.read("postprocess.json")["chosen"]
    shapes = [entry["shape"] for name, entry in head.items() if name.startswith(f"{network}.")]
    return {
        "run": f"{run.variant}/{run.stage}/seed{run.seed}",
        "network": network,
        "parameters": f"{sum(math.prod(shape) for shape in shapes):,}",
        "sha256": sha256(path),
    }


def _postprocess_rows(run: RunFolder) -> dict:
    """What post-processing does to each class, and what it gained on validation."""
    spec = run.read("postprocess.json")
    spec = spec[spec["chosen"]]
    rows = [
        {
            "label": label,
            "settings": ", ".join(f"{name} {value}" for name, value in sorted(settings.items())),
            "numbers": [_decimals(spec.get(key, {}).get(label)) for key in ("thresholds", "untouched", "reached")],
        }
        for label, settings in spec.get("settings", {}).items()
    ]
    title = f"{run.stage}, seed {run.seed}: {spec['name']}"
    return {
        "postprocess_title": title,
        "postprocess_rows": rows,
        "postprocess_objective": spec.get("objective", "score"),
    }


def _decimals(number: float | None) -> str:
    return "–" if number is None else f"{number:.3f}"


def _data_hashes(folder: Path, clips: Sequence[Clip], several: bool) -> list[tuple[str, str]]:
    of = f"{folder.name}: " if several else ""
    tables = [(f"{of}manifest {path.name}", sha256(path)) for path in sorted(Path(folder).glob("*.tsv"))]
    return tables + [(f"{of}{name}", digest) for name, digest in _audio_hashes(clips)]


def _audio_hashes(clips: Sequence[Clip]) -> list[tuple[str, str]]:
    """One hash over the sorted audio hashes of each source."""
    sources: dict[str, list[str]] = {}
    for clip in clips:
        sources.setdefault(clip.source, []).append(f"{clip.id} {clip.sha256}")
    return [
        (f"audio of {source}", hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest())
        for source, lines in sorted(sources.items())
    ]


def _pretty(settings: dict) -> str:
    return json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
