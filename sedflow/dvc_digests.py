"""What DVC follows of a system instead of source files, and which systems it can follow at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sedflow import digest, plan
from sedflow.audio import recordings
from sedflow.files import sha256
from sedflow.params import SettingsError, System

STAGES = ("frozen", "finetune")
COMMANDS = {
    "data": ("download", "soundbank", "prepare", "collect", "inventory"),
    "features": ("weights", "features", "inventory"),
    "train": ("train",),
    "evaluate": ("score", "tune", "evaluate_run", "export"),
    "report": ("report",),
}


def code_digests(system: System) -> dict[str, str]:
    """What DVC follows instead of source files: its stage → digest of the code that the stage's commands run."""
    used = {
        "data": [("corpora", spec["name"]) for spec in plan.corpora(system).values()],
        "features": [(family, name) for family, name in plan.network_plugins(system) if family == "encoders"],
        "evaluate": plan.network_plugins(system),
    }
    digests = {step: _joined(commands, used.get(step, [])) for step, commands in COMMANDS.items() if step != "train"}
    digests["data"] += own_data(system)
    trained = {
        name: _joined(COMMANDS["train"], plan.train_plugins(system, stage)) for name, stage in system.stages.items()
    }
    return {**digests, **trained}


def own_data(system: System) -> str:
    """What a system's corpora are read from and no stage makes: sums of tables, and which recordings lie in folders."""
    lines = []
    for folder, spec in plan.corpora(system).items():
        sums = " ".join(sha256(table) for table in plan.corpus_tables(spec))
        content = f"{sums} {plan.corpus_listing_digest(spec)}"
        lines.append(f"{folder} {hashlib.sha256(content.encode()).hexdigest()[:16]}\n")
    return "".join(lines)


def raw_is_there(system: System) -> bool:
    """Whether the folders are there that the system's corpora are read from: a clone has the clips alone."""
    paths = [spec["path"] for spec in plan.corpora(system).values() if spec.get("path")]
    folders = [Path(folder) for path in paths for folder in ([path] if isinstance(path, str) else path)]
    return all(recordings(folder) for folder in folders)


def check_own_data(system: System, noted: Path) -> None:
    """Refuse to work within ``dvc repro`` on recordings or tables that changed since DVC noted them.

    DVC cannot watch a folder that a page names: the digests that its first stage writes speak for it, and DVC runs that
    stage again for changed code or settings alone.
    """
    if raw_is_there(system) and noted.is_file() and not noted.read_text(encoding="utf-8").endswith(own_data(system)):
        raise SettingsError(
            f"recordings or label tables of {list(plan.corpora(system))} changed, which DVC does not see by itself: "
            "run `dvc repro --single-item --force code`, then `dvc repro`; or `snakemake`, then `sedflow sync record`"
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
