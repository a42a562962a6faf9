"""One training run: from manifests and settings to ``best.safetensors`` and a learning curve.

What a run needs to resume is in its work folder; the run folder is written once, at the end.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import lightning
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from sedflow import plugins
from sedflow.dataset import ClipSet
from sedflow.detector import Detector, build_detector
from sedflow.features import Cache
from sedflow.files import sha256, write_text
from sedflow.frames import FrameGrid
from sedflow.learner import Judge, Learner
from sedflow.listing import listing_digest
from sedflow.manifests import read_manifests
from sedflow.memory import keep_pages
from sedflow.optimization import freeze_unused
from sedflow.params import PSEUDO
from sedflow.pseudo import PseudoLabels
from sedflow.specification import Specification, load_detector, save_detectors
from sedflow.stage_plugins import check_recordings, listeners
from sedflow.trainer import LAST, build_trainer
from sedflow.weights import CheckpointError

log = logging.getLogger(__name__)


def train(  # noqa: PLR0913 (one rule's inputs)
    settings: dict, seed: int, manifests: list, features: dict, weights: dict, start_from, work, out, root=".",
    pseudo_labels: list = (),
) -> None:  # fmt: skip
    """Train one stage of a system with one seed.

    Parameters
    ----------
    settings : dict
        ``system``, ``stage_name``, ``stage``, ``detector``, ``corpora``, ``clip_seconds``, ``sample_rate``,
        ``inference``, ``feature_shards``: the parts of a page that this step reads
    manifests : list of Path    ``data/manifests/<corpus>``, one per corpus
    features : dict    encoder name → cache folder, for the encoders that this stage freezes
    weights : dict    encoder name → official checkpoint
    start_from : Path or None    ``best.safetensors`` of the previous stage
    work : Path    folder of the resume state, kept apart by what it depends on; a second call resumes from there
    out : Path    run folder: ``best.safetensors``, ``log.csv``, ``settings.json``
    pseudo_labels : list of Path    an ensemble's ``<corpus>/<source>.npy``
    """
    tables = [table for folder in manifests for table in sorted(Path(folder).glob("*.tsv"))]
    stage = settings["stage"]
    check_recordings(stage.get("augment", ()), settings["sample_rate"])
    depends_on = [*tables, *weights.values(), *pseudo_labels, *listeners(stage["losses"]), start_from]
    clips = read_clip_set(settings, manifests, features, pseudo_labels, root)
    check_validation(clips, stage["processes"])
    work, out = Path(work) / run_digest(settings, seed, depends_on, list(clips.classes)), Path(out)
    work.mkdir(parents=True, exist_ok=True)
    keep_pages()
    lightning.seed_everything(seed, workers=True, verbose=False)
    student, teacher = build_networks(settings, list(clips.classes), weights, start_from)
    judge = validation_judge(clips, stage["monitor"]["metrics"])
    learner = Learner(student, stage, clips, judge, seed, teacher)
    trainer = build_trainer(stage, work)
    last = work / LAST
    with alone_in(work):
        try:
            trainer.fit(learner, ckpt_path=str(last) if last.exists() else None, weights_only=True)
        except SIGTERMException:  # leaves without a code, which shells and schedulers take for success
            sys.exit(128 + signal.SIGTERM)
        if trainer.is_global_zero:
            finish(learner, trainer, settings, seed, out)


@contextlib.contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Wait until no other job works on the same run: variants that differ in later stages alone share the first ones.

    A job that has waited finds the run done and takes its results. Processes that share a run's batches are one job.
    """
    if any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "SLURM_PROCID")):
        yield
        return
    with (work / "lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # a file system may have no locks
            if error.errno in (errno.EACCES, errno.EAGAIN):
                log.warning("%s: another job is working on this run; waiting for its results", work)
                fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def run_digest(settings: dict, seed: int, files: list, classes: list[str]) -> str:
    """Digest of what a run is made of, so that it never resumes from a state of other data, weights or settings.

    Classes count in their order, which is that of the outputs, and so do the recordings that augmentations read. Loader
    processes, shards of the cache and windows scored at once change nothing but time and memory.
    """
    stage, inference = dict(settings["stage"]), dict(settings["inference"])
    stage.pop("workers", None)
    inference.pop("batch", None)
    counted = settings | {"stage": stage, "inference": inference, "feature_shards": None, "classes": classes}
    identity = json.dumps(counted, sort_keys=True)
    recordings = listing_digest(spec["folder"] for spec in stage.get("augment", ()) if "folder" in spec)
    parts = [identity, str(seed), recordings, *(sha256(path) for path in files if path is not None)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_clip_set(settings: dict, manifests: list, features: dict, pseudo_labels: list, root) -> ClipSet:
    """The clips of a stage: its sources and validation, with cached features where the encoder is frozen."""
    corpora = [plugins.build("corpora", spec) for spec in settings["corpora"]]
    tables = read_manifests([Path(folder) for folder in manifests], corpora)
    stage = settings["stage"]
    used = [source for source, share in stage["sources"].items() if share] + ["validation"]
    if PSEUDO in used:
        used += [Path(file).stem for file in pseudo_labels]
    grid = FrameGrid(settings["detector"]["frame_rate"])
    of_corpus = [(Path(folder).name, corpus.sources) for folder, corpus in zip(manifests, corpora, strict=True)]
    caches = {}
    for encoder, folder in features.items():
        shards = [
            Path(folder) / corpus / f"{source}-{shard}.npy"
            for corpus, sources in of_corpus
            for source in used
            if source in sources
            for shard in range(settings["feature_shards"])
        ]
        caches[encoder] = Cache(shards)
    needs_waveform = set(features) != {spec["name"] for spec in settings["detector"]["encoders"]}
    return ClipSet(
        tables.of(used),
        tables.kinds,
        tables.strong,
        tables.weak,
        tables.classes,
        grid=grid,
        clip_seconds=settings["clip_seconds"],
        sample_rate=settings["sample_rate"] if needs_waveform else None,
        caches=caches,
        root=root,
        known=tables.known,
        pseudo=PseudoLabels(pseudo_labels, tables.classes, grid) if pseudo_labels else None,
        random_crops=stage["random_crops"],
        frame_labels=stage["frame_labels"],
    )


def build_networks(settings: dict, classes: list[str], weights: dict, start_from) -> tuple[Detector, Detector | None]:
    """Student and teacher of a stage: from the previous stage, or a new student that the learner copies.

    Raises
    ------
    CheckpointError    the previous stage made a different detector from the one this stage continues
    """
    teacher = None
    if start_from is None:
        student = build_detector(settings["detector"], len(classes), weights)
    else:
        student, before = load_detector(start_from, "student")
        check_start(before, settings, classes, start_from)
        if settings["stage"]["teacher"] is not None:
            teacher, _ = load_detector(start_from, "teacher" if "teacher" in before.networks else "student")
    for network in filter(None, (student, teacher)):
        network.freeze(settings["stage"]["freeze"])
        network.set_dropout(settings["stage"]["dropout"])
    if unused := freeze_unused(student):
        log.info("no score depends on these parameters, they stay unchanged: %s", ", ".join(unused))
    return student, teacher


def check_start(before: Specification, settings: dict, classes: list[str], path) -> None:
    """Refuse a checkpoint that is of other classes or of another detector than the stage that begins with it."""
    ours = {"classes": classes, "sample_rate": settings["sample_rate"], **settings["detector"]}
    theirs = {"classes": before.classes, "sample_rate": before.sample_rate, **before.detector}
    for field in ours | theirs:
        if ours.get(field) != theirs.get(field):
            raise CheckpointError(
                f"{path}: its {field} is {theirs.get(field)}, this stage's {ours.get(field)}; train the previous stage "
                "again with these settings"
            )


def check_validation(clips: ClipSet, processes: int) -> None:
    """Refuse to train where a process would have no clip to validate: found out at the end of the first stretch."""
    count = len(clips.of_source("validation"))
    if count < processes:
        raise plugins.SettingsError(
            f"processes: {count} validation clips are too few for {processes} of them, each of which needs its own; "
            + ("lower `processes`, or let the corpora make more" if count else "let a corpus make some")
        )


def validation_judge(clips: ClipSet, wanted=()) -> Judge:
    """Validation scores → PSDS1 and PSDS2, and, if wanted, ``psds1_macro`` and ``segment_mpauc``.

    Clips whose labels cover different classes are evaluated separately, since a class that nobody labelled is no false
    alarm; the metrics are the means over these parts, those without any event left out. Of soft labels counts what is
    surer than not.

    Raises
    ------
    SettingsError    nothing sounds in any clip, so that what is wanted cannot be measured
    """
    from sedflow import evaluation
    from sedflow.recordings import sounding

    which = [name for name in evaluation.CRITERIA if name in {"psds1", "psds2", *wanted}]
    sounds = {clip: sounding(clips.strong.get(clip, [])) for clip in clips.of_source("validation")}
    parts: dict[bytes, list[str]] = {}
    for clip in sounds:
        parts.setdefault(clips.known[clip].tobytes() if clip in clips.known else b"", []).append(clip)
    parts = {mask: ids for mask, ids in parts.items() if any(sounds[clip] for clip in ids)}
    if not parts and (unknown := [name for name in wanted if name not in ("bce", "step")]):
        raise plugins.SettingsError(
            f"monitor.metrics: {unknown} need events, and no validation clip has one; label some, or monitor bce"
        )

    def judge(scores) -> dict[str, float]:
        judged: list[dict[str, float]] = []
        for ids in parts.values():
            truth = {clip: sounds[clip] for clip in ids}
            durations = {clip: clips.clips[clip].seconds for clip in ids}
            of_part = {clip: scores[clip] for clip in ids}
            judged.append(evaluation.psds(of_part, truth, durations, which))
            if "segment_mpauc" in wanted:
                judged[-1]["segment_mpauc"] = evaluation.segment_mpauc(of_part, truth, durations)
        return {name: sum(part[name] for part in judged) / len(judged) for name in (judged[0] if judged else ())}

    return judge


def finish(learner: Learner, trainer: lightning.Trainer, settings: dict, seed: int, out: Path) -> None:
    """Write the best checkpoint's networks with their specification, the learning curve and the settings."""
    best = torch.load(trainer.checkpoint_callbacks[0].best_model_path, map_location="cpu", weights_only=True)
    learner.load_state_dict(best["state_dict"])
    networks = learner.networks
    specification = Specification(
        system=settings["system"],
        stage=settings["stage_name"],
        classes=list(learner.clips.classes),
        sample_rate=settings["sample_rate"],
        frame_rate=settings["detector"]["frame_rate"],
        clip_seconds=settings["clip_seconds"],
        detector=settings["detector"],
        inference=settings["inference"],
        networks=list(networks),
        seed=seed,
        step=best["global_step"],
    )
    write_text(out / "log.csv", curve_table(learner.history))
    write_text(out / "settings.json", json.dumps(settings, indent=2, sort_keys=True) + "\n")
    save_detectors(out / "best.safetensors", networks, specification)


def curve_table(history: list[dict]) -> str:
    """The learning curve as CSV, one row per validation."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    written = lambda value: value if isinstance(value, int) else f"{value:.6g}"  # noqa: E731
    writer.writerows({key: written(value) for key, value in row.items()} for row in history)
    return text.getvalue()
