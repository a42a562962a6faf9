"""What a system's numbers came from, for the report: data, learning curves, cost, settings, versions and hashes."""

from __future__ import annotations

import csv
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
from sedflow.audio import sha256
from sedflow.events import Clip, read_events, read_weak
from sedflow.figures import GREY, Line, heatmap, learning_charts, most_frequent
from sedflow.mistakes import cooccurrence
from sedflow.params import HELD_OUT
from sedflow.runs import NETWORKS, RunFolder

PACKAGES = ("torch", "lightning", "numpy", "scaper", "librosa", "soundfile", "sed_scores_eval", "snakemake", "dvc")
WATTS_PER_CORE = 10
NETWORK_STYLES = {"student": GREY, "teacher": "s1", "the run": "s3"}


def source_labels(manifests: Path, source: str) -> tuple[str, dict[str, list[str]]]:
    """Kind of a source's labels and the labels of each clip, one per event (strong) or per class (weak)."""
    path = Path(manifests) / f"{source}.tsv"
    header = path.read_text(encoding="utf-8-sig").split("\n", 1)[0].split("\t") if path.is_file() else []
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


def cost_section(benchmarks: Path, names: set[str], stages: Sequence[str]) -> dict:
    """Time, CPU and memory per step from Snakemake's benchmark files; empty when there are none.

    Parameters
    ----------
    benchmarks : Path    ``<rule>/<system or corpus>/…/<stage>/….tsv``
    names : set of str    system, corpora, encoders and weights: what else a file's path begins with is other systems'
    stages : sequence of str    jobs of different stages are different steps
    """
    jobs: dict[str, list[dict[str, float]]] = {}
    for path in sorted(Path(benchmarks).rglob("*.tsv")):
        rule, *parts = path.relative_to(benchmarks).with_suffix("").parts
        # the page's own job is only measured when it is finished, and the page must not change with it
        if rule != "report" and _is_of(parts, names):
            step = " ".join([rule, *(stage for stage in stages if stage in parts)])
            with open(path, newline="", encoding="utf-8") as file:
                jobs.setdefault(step, []).extend(_numbers(row) for row in csv.DictReader(file, delimiter="\t"))
    rules = sorted((rule for rule in jobs if jobs[rule]), key=lambda rule: -sum(job["s"] for job in jobs[rule]))
    total = {rule: sum(job["s"] for job in jobs[rule]) for rule in rules}
    cpu = {rule: sum(job["cpu_time"] for job in jobs[rule]) for rule in rules}
    costs = [
        {
            "rule": rule,
            "jobs": len(jobs[rule]),
            "total": clock(total[rule]),
            "longest": clock(max(job["s"] for job in jobs[rule])),
            "cpu": clock(cpu[rule]),
            "memory": f"{max(job['max_rss'] for job in jobs[rule]):,.0f} MB",
        }
        for rule in rules
    ]
    longest = max(total.values(), default=1) or 1
    rows = [
        {
            "name": r,
            "bars": [
                {"name": "time", "style": "s1", "percent": round(100 * total[r] / longest, 2), "text": clock(total[r])}
            ],
        }
        for r in rules
    ]
    watt_hours = sum(cpu.values()) * WATTS_PER_CORE / 3600
    energy = (
        f"{clock(sum(cpu.values()))} of CPU time: about {watt_hours:.1f} Wh if a busy core draws {WATTS_PER_CORE} W."
    )
    return {"costs": costs, "cost_chart": {"title": "Time by step", "rows": rows}, "energy": energy}


def _is_of(parts: Sequence[str], names: set[str]) -> bool:
    """Whether a benchmark's path begins with a name of ours, or with features of an encoder of ours and then a corpus.

    Behind these stand names that systems share: stages, and the corpora that an ensemble scores.
    """
    encoder = parts[0].rsplit("-", 2)[0]  # data/features/<encoder>-<digest>-<shards>
    return parts[0] in names or (encoder in names and bool(names & set(parts[1:2])))


def _numbers(row: dict[str, str]) -> dict[str, float]:
    """The columns of a benchmark line that are used; what Snakemake could not measure (``NA``, ``-``) is 0."""
    numbers = {}
    for column in ("s", "cpu_time", "max_rss"):
        try:
            value = float(row.get(column) or 0)
        except ValueError:
            value = 0.0
        numbers[column] = value if math.isfinite(value) else 0.0
    return numbers


def clock(seconds: float) -> str:
    """A duration as people read it: 4.2 s, 3 min 20 s, 1 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


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
