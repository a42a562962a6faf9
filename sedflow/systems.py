"""A system's page: read, and checked for what has to fit together before anything runs."""

from __future__ import annotations

import copy
from pathlib import Path

from sedflow import plugins
from sedflow.params import HELD_OUT, Stage, System, overlay, read_yaml, validated
from sedflow.plugins import SettingsError, nearest


def read_system(name: str, variant: str = "default", folder="workflow/systems") -> System:
    """Read and check one system's page, with the differences of a variant applied.

    Raises
    ------
    SettingsError    with the file, the key and the nearest known one
    """
    path = Path(folder) / f"{name}.yaml"
    if not path.is_file():
        pages = sorted(page.stem for page in Path(folder).glob("*.yaml"))
        raise SettingsError(f"there is no system {name!r} in {folder}{nearest(name, pages)}")
    page = read_yaml(path)
    variants = page.get("variants") or {}
    if variant != "default":
        if variant not in variants:
            raise SettingsError(f"{path}: there is no variant {variant!r}{nearest(variant, ['default', *variants])}")
        page = overlay(page, variants[variant])
    return check_system(page, str(path))


def check_system(page: dict, where: str = "system") -> System:
    """Check a system's settings: every key, every plugin's arguments, and what has to fit together."""
    page = copy.deepcopy(page)
    page["corpora"] = [_check_corpus(spec, where) for spec in page.get("corpora") or []]
    system = validated(System, page, where)
    for encoder in system.detector.encoders:
        own = {key: value for key, value in encoder.items() if key != "weights"}
        plugins.check("encoders", own, f"{where}: detector.encoders")
    plugins.check("sequence", system.detector.sequence, f"{where}: detector.sequence")
    for name, stage in system.stages.items():
        _check_stage(system, name, stage, where)
    return system


def _check_corpus(spec: dict, where: str) -> dict:
    """A corpus may say ``as: <folder>``, where its files lie: two systems can then use it with different settings."""
    own = {key: value for key, value in spec.items() if key != "as"} if isinstance(spec, dict) else spec
    place = {"as": str(spec["as"])} if own != spec else {}
    return plugins.check("corpora", own, f"{where}: corpora") | place


def _check_stage(system: System, name: str, stage: Stage, where: str) -> None:
    at = f"{where}: stages.{name}"
    encoders = [encoder["name"] for encoder in system.detector.encoders]
    _check_plugins(stage, encoders, at)
    _check_parts(stage, encoders, at)
    _check_schedule(stage, at)
    _check_sources(system, stage, at)
    if stage.start_from is not None and stage.start_from not in system.stages:
        raise SettingsError(f"{at}.start_from: no stage {stage.start_from!r}{nearest(stage.start_from, system.stages)}")


def _check_plugins(stage: Stage, encoders: list[str], at: str) -> None:
    """Losses and augmentations exist, take these settings, and find what they need in this stage."""
    for loss in stage.losses:
        own = {key: value for key, value in loss.items() if key not in ("weight", "ramp_steps")}
        plugins.check("losses", own, f"{at}.losses")
        if loss["name"] == "consistency" and stage.teacher is None:
            raise SettingsError(
                f"{at}.losses: consistency needs a teacher; add `teacher: {{decay: 0.999}}` or drop the loss"
            )
    for spec in stage.augment:
        plugins.check("augment", spec, f"{at}.augment")
        if set(stage.freeze) == set(encoders) and spec["name"] in plugins.constant("augment", "NEEDS_WAVEFORM"):
            raise SettingsError(
                f"{at}.augment: {spec['name']!r} works on the waveform, but with every encoder frozen only cached "
                "features are read; drop it here or use it in a stage that trains the encoder"
            )


def _check_parts(stage: Stage, encoders: list[str], at: str) -> None:
    """What is frozen exists, and every part that trains has a learning rate."""
    for frozen in stage.freeze:
        if frozen not in encoders:
            raise SettingsError(f"{at}.freeze: no encoder {frozen!r}{nearest(frozen, encoders)}")
    parts = ["head", *(encoder for encoder in encoders if encoder not in stage.freeze)]
    for part in {*stage.optimizer.lr, *stage.optimizer.layer_decay} - set(parts):
        raise SettingsError(f"{at}.optimizer: {part!r} is not trained in this stage{nearest(part, parts)}")
    for part in set(parts) - set(stage.optimizer.lr):
        raise SettingsError(f"{at}.optimizer.lr: no learning rate for {part!r}; freeze it or give one")


def _check_schedule(stage: Stage, at: str) -> None:
    """Warm-up and validation fit into the steps there are."""
    warmup = stage.optimizer.warmup_steps
    if warmup >= stage.steps:
        raise SettingsError(f"{at}.optimizer.warmup_steps: {warmup} of {stage.steps} steps leave nothing to train")
    if stage.validate_every > stage.steps or stage.steps % stage.validate_every:
        raise SettingsError(f"{at}.validate_every: {stage.validate_every} must divide steps ({stage.steps})")


def _check_sources(system: System, stage: Stage, at: str) -> None:
    if sum(stage.sources.values()) < 1 or min(stage.sources.values()) < 0:
        raise SettingsError(f"{at}.sources: the shares {stage.sources} make no batch")
    offered: dict[str, str] = {}
    for spec in system.corpora:
        offered |= plugins.build("corpora", {key: value for key, value in spec.items() if key != "as"}).sources
    for source in stage.sources:
        if source in HELD_OUT:
            raise SettingsError(f"{at}.sources: {source!r} is held out and may not be trained on")
        if source not in offered:
            raise SettingsError(
                f"{at}.sources: no corpus has {source!r}{nearest(source, set(offered) - set(HELD_OUT))}"
            )
