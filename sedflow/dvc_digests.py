"""What DVC follows of a system instead of source files, and which systems it can follow at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sedflow import digest, plan
from sedflow.audio import recordings
from sedflow.files import sha256
from sedflow.params import SettingsError, Stage, System, canonical

STAGES = ("frozen", "finetune")
_KINDS = {
    "data": "recordings or label tables of the corpora",
    "features": "the weights of an encoder",
    "train": "weights, detectors that run during training or recordings of augmentations",
}
COMMANDS = {
    "data": ("download", "soundbank", "prepare", "collect", "inventory"),
    "features": ("weights", "features", "inventory"),
    "train": ("train",),
    "evaluate": ("score", "tune", "evaluate_run", "export"),
    "report": ("report",),
}


def code_digests(system: System) -> dict[str, str]:
    """What DVC follows instead of files, by its stage: digests of the code that the stage's commands run, and of what
    they read that no stage makes.
    """
    used = {
        "data": [("corpora", spec["name"]) for spec in plan.corpora(system).values()],
        "features": [(family, name) for family, name in plan.network_plugins(system) if family == "encoders"],
        "evaluate": plan.network_plugins(system),
    }
    digests = {step: _joined(commands, used.get(step, [])) for step, commands in COMMANDS.items() if step != "train"}
    digests["features"] += _cached(system)
    for name, stage in system.stages.items():
        digests[name] = _joined(COMMANDS["train"], plan.train_plugins(system, stage))
    own = own_files(system)
    return {step: text + own.get(step, "") for step, text in digests.items()}


def own_files(system: System) -> dict[str, str]:
    """Digests of what a system reads and no stage makes, by the stage of DVC that reads it.

    These are a corpus' tables, weights and finished detectors, by their content, and the recordings that lie in the
    folders of corpora and augmentations. Detectors that a page makes count by its settings and code: Snakemake may make
    them while DVC runs.
    """
    encoders = {spec["name"]: spec["weights"] for spec in system.detector.encoders if spec.get("weights")}
    weights = "".join(f"{encoder} {digest.weights(name)}\n" for encoder, name in encoders.items())
    lines = {"data": "", "features": weights}
    for folder, spec in plan.corpora(system).items():
        sums = " ".join(sha256(table) for table in plan.corpus_tables(spec))
        content = f"{sums} {plan.corpus_listing_digest(spec)}"
        lines["data"] += f"{folder} {hashlib.sha256(content.encode()).hexdigest()[:16]}\n"
    for name, stage in system.stages.items():
        lines[name] = "" if stage.start_from else weights
        for file in plan.listeners(stage):
            content = sha256(file) if Path(file).is_file() else "missing"
            lines[name] += f"{file} {_recipe(file) or content}\n"
        if _augment_folders(stage):
            lines[name] += f"augment {plan.augment_listing_digest(stage)}\n"
    return lines


def own_files_are_there(system: System) -> bool:
    """Whether the files and folders of the user's own are there that the system reads: a clone has the clips alone."""
    paths = [spec["path"] for spec in plan.corpora(system).values() if spec.get("path")]
    folders = [folder for path in paths for folder in ([path] if isinstance(path, str) else path)]
    weights = [spec["weights"] for spec in system.detector.encoders if spec.get("weights")]
    files = [name for name in weights if digest.weights_file(name) == name]
    for stage in system.stages.values():
        folders += _augment_folders(stage)
        files += [file for file in plan.listeners(stage) if _recipe(file) is None]
    return all(map(recordings, folders)) and all(Path(file).is_file() for file in files)


def check_own_files(system: System, noted: Path) -> None:
    """Refuse to work within ``dvc repro`` on files of the user's own that changed since DVC noted them.

    DVC cannot watch what a page names: the digests that its first stage writes into the folder ``noted`` speak for it,
    and DVC runs that stage again for changed code or settings alone.
    """
    if not own_files_are_there(system):
        return
    for step, lines in own_files(system).items():
        file = noted / f"{step}.txt"
        if file.is_file() and not file.read_text(encoding="utf-8").endswith(lines):
            raise SettingsError(
                f"{_KINDS.get(step, _KINDS['train'])} changed, which DVC does not see by itself: run `dvc repro "
                "--single-item --force code`, then `dvc repro`; or `snakemake`, then `sedflow sync record`"
            )


def check(name: str, system: System) -> None:
    """Refuse a page that dvc.yaml does not cover; Snakemake covers all."""
    learning = [stage for stage, settings in system.stages.items() if settings.pseudo_labels]
    if list(system.stages) != list(STAGES) or learning:
        kind = f"{learning} learn from an ensemble" if learning else f"its stages are {list(system.stages)}"
        raise SettingsError(
            f"{name}: {kind}, but dvc.yaml follows pages of the stages {list(STAGES)} without ensembles: run "
            f"`snakemake {name}`, or choose another system in params.yaml for DVC"
        )


def _joined(commands, used) -> str:
    return "".join(f"{command} {digest.code(command, used)}\n" for command in commands)


def _recipe(checkpoint: str) -> str | None:
    """Digest of the settings and code of the training, after those it starts from, that makes a detector; None if it is
    no training of a page.
    """
    page, system, stage = plan.run_of_page(checkpoint) or (None, None, None)
    if page is None or stage not in system.stages or Path(checkpoint).name != "best.safetensors":
        return None
    parts = []
    while stage is not None:
        settings = system.stages[stage]
        parts += [
            canonical(plan.train_settings(page, system, stage)),
            _joined(COMMANDS["train"], plan.train_plugins(system, settings)),
        ]
        stage = settings.start_from
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _augment_folders(stage: Stage) -> list[str]:
    return [spec["folder"] for spec in stage.augment if "folder" in spec]


def _cached(system: System) -> str:
    """Which features stages read, as far as dvc.yaml cannot follow it: pages need not write these settings out."""
    first, *later = system.stages.items()
    told = {name: [stage.freeze, stage.sources] for name, stage in later if plan.caches(system, stage)}
    if not first[1].cached:
        told[first[0]] = "not cached"
    return f"stages {canonical(told)}\n" if told else ""
