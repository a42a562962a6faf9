"""A small corpus and the settings of a short run: shared by the tests of training, and a command they can kill.

``python training_run.py CORPUS_ROOT STAGE SEED WORK OUT START_FROM CHANGES`` trains one stage; START_FROM is a
checkpoint or ``-``, CHANGES are settings of the stage as JSON.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from unittest import mock

from sedflow import collect, plugins
from sedflow.corpora import write_pieces
from sedflow.systems import check_system
from sedflow.yaml_text import overlay

CORPUS = {"name": "demo", "synthetic_strong": 10, "weak": 4, "unlabeled": 4, "validation": 4, "test": 4, "seconds": 4.0}
OPTIMIZER = {"lr": {"head": 0.003}, "warmup_steps": 2, "weight_decay": 0.01, "clip_norm": 1.0}
PAGE = {
    "title": "a short run",
    "corpora": [CORPUS],
    "clip_seconds": 4.0,
    "detector": {
        "encoders": [{"name": "mobilenet", "width": 0.1}],
        "sequence": {"name": "bigru", "width": 16, "layers": 1},
        "merge_dim": 32,
        "merge_norm": True,
        "dropout": 0.2,
    },
    "feature_shards": 1,
    "stages": {
        "frozen": {
            "freeze": ["mobilenet"],
            "sources": {"synthetic_strong": 4, "weak": 2, "unlabeled": 2},
            "augment": [{"name": "frame_shift"}, {"name": "mixup"}, {"name": "feature_noise"}],
            "losses": [{"name": "supervised"}, {"name": "consistency", "weight": 2.0, "ramp_steps": 6}],
            "teacher": {"decay": 0.9},
            "optimizer": OPTIMIZER,
            "steps": 12,
            "validate_every": 3,
        },
        "finetune": {
            "start_from": "frozen",
            "sources": {"synthetic_strong": 2, "weak": 1, "unlabeled": 1},
            "augment": [{"name": "gain"}, {"name": "equalize"}],
            "losses": [{"name": "supervised"}, {"name": "consistency"}],
            "teacher": {"decay": 0.9},
            "optimizer": OPTIMIZER | {"lr": {"head": 0.001, "mobilenet": 0.001}, "layer_decay": {"mobilenet": 0.8}},
            "steps": 6,
            "validate_every": 2,
        },
    },
    "inference": {"window_seconds": 4.0, "hop_seconds": 2.0},
    "postprocess": {"name": "median_filter"},
}


def prepare(root: Path) -> Path:
    """Make the corpus under ``root`` with the functions that the rules call; returns the manifests folder."""
    corpus = plugins.build("corpora", CORPUS)
    raw, audio, manifests = root / "data/raw/demo", root / "data/audio/demo", root / "data/manifests/demo"
    corpus.download(raw, None)
    write_pieces(manifests / "soundbank.tsv", corpus.soundbank(raw, audio))
    for shard in range(corpus.shards):
        collect.write_shard(manifests / "shards", shard, corpus.prepare(manifests / "soundbank.tsv", audio, shard))
    collect.collect(manifests, corpus.shards, corpus.sources, corpus.classes)
    return manifests


def settings(stage: str, detector: dict | None = None, **changes) -> dict:
    """What the rule `train` would pass for one stage, with other settings of its own or of the detector."""
    page = overlay(PAGE, {"detector": detector or {}, "stages": {stage: changes}})
    system = check_system(page).model_dump(mode="json")
    parts = ("detector", "corpora", "clip_seconds", "sample_rate", "inference", "feature_shards")
    chosen = {key: system[key] for key in parts}
    return chosen | {"system": "test", "stage_name": stage, "stage": system["stages"][stage]}


def cache(root: Path) -> dict[str, Path]:
    """Compute the feature cache of the frozen stage."""
    from sedflow import features

    folder = root / "data/features/mobilenet"
    for source in ("synthetic_strong", "weak", "unlabeled", "validation"):
        features.extract(
            PAGE["detector"]["encoders"][0], None, root / "data/manifests/demo/clips.tsv", source, 0, 1,
            folder / "demo" / f"{source}-0.npy", clip_seconds=4.0, root=root,
        )  # fmt: skip
    return {"mobilenet": folder}


def run(root: Path, stage: str, seed: int, work: Path, out: Path, start_from: Path | None = None, **changes) -> None:
    """Train one stage on the prepared corpus; ``counting=True`` judges scores by their number and their sum."""
    import torch

    from sedflow import train as module
    from sedflow.train import train

    torch.set_num_threads(1)
    judge = (lambda *_: count_scores) if changes.pop("counting", False) else module.validation_judge
    features = {"mobilenet": root / "data/features/mobilenet"} if stage == "frozen" else {}
    manifests = [root / "data/manifests/demo"]
    with mock.patch.object(module, "validation_judge", judge):
        train(settings(stage, **changes), seed, manifests, features, {}, start_from, work, out, root=root)


def count_scores(scores) -> dict[str, float]:
    """Metrics that tell apart any two sets of scores."""
    total = sum(number * float(of_clip.values.sum()) for number, of_clip in enumerate(scores.values(), 1))
    return {"clips": len(scores), "sum": total, "psds1": total, "psds2": total}


def run_both(root: Path, folder: Path, moment: str | None, count: int) -> None:
    """Both stages, each unless it is done; killed when ``moment`` comes for the ``count``-th time."""
    die = _killer(count)
    if moment in INSIDE:
        _interrupt(*INSIDE[moment], die)
    frozen, finetuned = folder / "frozen", folder / "finetune"
    if not (frozen / "best.safetensors").exists():
        run(root, "frozen", 1, folder / "work", frozen)
    if moment == "between stages":
        die()
    if not (finetuned / "best.safetensors").exists():
        run(root, "finetune", 1, folder / "work", finetuned, frozen / "best.safetensors")


# moments inside a run: module, class, function that is on when they come
INSIDE = {
    "in a step": ("sedflow.learner", "Learner", "on_before_zero_grad"),
    "after a step": ("sedflow.trainer", "Waiting", "on_train_batch_end"),
    "in validation": ("sedflow.learner", "Learner", "on_validation_epoch_end"),
    "while a checkpoint is written": ("os", None, "fsync"),
    "while the results are written": ("sedflow.train", None, "save_detectors"),
}


def _killer(count: int):
    """A function that kills this process the ``count``-th time it is called."""
    times = []

    def die(*_, **__):
        times.append(1)
        if len(times) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def _interrupt(module: str, owner: str | None, name: str, die) -> None:
    place = importlib.import_module(module)
    place = getattr(place, owner) if owner else place
    usual = getattr(place, name)

    def interrupted(*args, **kwargs):
        die()
        return usual(*args, **kwargs)

    setattr(place, name, interrupted)


if __name__ == "__main__":
    corpus_root, stage_name, seed_number, work_folder, out_folder, start, stage_changes = sys.argv[1:]
    run(
        Path(corpus_root), stage_name, int(seed_number), Path(work_folder), Path(out_folder),
        None if start == "-" else Path(start), **json.loads(stage_changes),
    )  # fmt: skip
