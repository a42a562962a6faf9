"""Every setting once: types, units, defaults and checks.

``params.yaml`` holds the choices shared by all systems, ``workflow/systems/<system>.yaml`` one system. YAML states
what differs from the defaults here and in the plugins' constructors.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from sedflow import plugins
from sedflow.plugins import SettingsError, nearest

PluginSpec = dict[str, Any]
HELD_OUT = ("validation", "test")


class Settings(pydantic.BaseModel):
    """Frozen settings that refuse unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Shared(Settings):
    """``params.yaml``: the choices shared by all systems."""

    system: str
    variant: str
    corpora: list[str] = pydantic.Field(description="folders of the system's corpora, which DVC cannot read elsewhere")
    seeds: list[int] = pydantic.Field(min_length=1)
    tuning: Tuning
    threads: int = pydantic.Field(ge=1)


class Tuning(Settings):
    """How post-processing is tuned on validation."""

    objective: Literal["psds1+psds2", "psds1", "psds2", "collar_f1"]


class Detector(Settings):
    """The network: encoders → common grid → sequence head → strong and weak scores."""

    encoders: list[PluginSpec] = pydantic.Field(min_length=1)
    sequence: PluginSpec
    frame_rate: float = pydantic.Field(25.0, gt=0, description="frames per second of the scores")
    pooling: Literal["attention", "attention_over_time", "mean", "max"] = "attention"
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    merge_dim: int | None = pydantic.Field(
        None, gt=0, description="linear layer over the joined embeddings; none if unset"
    )
    merge_norm: bool = pydantic.Field(False, description="normalise each encoder's embeddings before they are joined")


class Optimizer(Settings):
    """Learning rates by part, in optimiser steps."""

    name: Literal["adam", "adamw"] = "adamw"
    lr: dict[str, float] = pydantic.Field(description="peak learning rate: `head` and each encoder that is trained")
    layer_decay: dict[str, float] = {}
    weight_decay: float = pydantic.Field(0.0, ge=0)
    warmup_steps: int = pydantic.Field(0, ge=0)
    warmup: Literal["linear", "exponential"] = "linear"
    schedule: Literal["cosine", "constant"] = "cosine"
    floor: float = pydantic.Field(0.0, ge=0, le=1, description="last learning rate as a share of the peak")
    clip_norm: float | None = pydantic.Field(None, gt=0)


class Teacher(Settings):
    """The mean teacher: an exponential moving average of the student's parameters."""

    decay: float = pydantic.Field(0.999, gt=0, lt=1)
    ramped: bool = pydantic.Field(True, description="decay min(1 − 1/(step+1), decay)")
    mode: Literal["train", "eval"] = pydantic.Field("train", description="dropout and batch statistics of the teacher")


class Stage(Settings):
    """One training run."""

    start_from: str | None = None
    freeze: list[str] = []
    sources: dict[str, int] = pydantic.Field(description="clips per batch, by source")
    losses: list[PluginSpec] = pydantic.Field(min_length=1)
    augment: list[PluginSpec] = []
    optimizer: Optimizer
    teacher: Teacher | None = None
    steps: int = pydantic.Field(gt=0, description="optimiser steps")
    validate_every: int = pydantic.Field(gt=0, description="optimiser steps between validations")
    keep_top: int = pydantic.Field(1, ge=1)
    precision: Literal["32", "bf16"] = "32"
    fixed_batchnorm: bool = pydantic.Field(False, description="encoders keep the BatchNorm statistics they came with")
    workers: int = pydantic.Field(0, ge=0, description="loader processes")


class Inference(Settings):
    """Scores of audio of any length: overlapping windows, averaged."""

    window_seconds: float = pydantic.Field(10.0, gt=0)
    hop_seconds: float = pydantic.Field(5.0, gt=0)
    batch: int = pydantic.Field(8, gt=0)


class System(Settings):
    """``workflow/systems/<system>.yaml``: one system of the literature, or of ours."""

    title: str
    published: dict[str, float] = {}
    corpora: list[PluginSpec] = pydantic.Field(min_length=1)
    clip_seconds: float = pydantic.Field(10.0, gt=0)
    sample_rate: int = pydantic.Field(16000, gt=0, description="rate of the audio on disk that the detector reads, Hz")
    detector: Detector
    feature_shards: int = pydantic.Field(2, ge=1, description="cache jobs per source")
    stages: dict[str, Stage] = pydantic.Field(min_length=1)
    inference: Inference = Inference()
    postprocess: PluginSpec
    variants: dict[str, dict] = {}


Shared.model_rebuild()


def read_yaml(path) -> dict:
    """Read a YAML mapping; numbers that YAML 1.1 takes for strings (``1e-05``) are numbers."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected keys and values, got {type(content).__name__}")
    return _numbers(content)


def read_shared(path="params.yaml") -> Shared:
    """Read and check ``params.yaml``."""
    return _checked(Shared, read_yaml(path), str(path))


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
    system = _checked(System, page, where)
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


def overlay(base: dict, changes: dict) -> dict:
    """A copy of ``base`` with ``changes`` laid over it, mapping by mapping; lists are replaced whole.

    A mapping with its own ``name`` is another plugin and replaces the old one, settings and all.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        deeper = (
            isinstance(value, dict)
            and isinstance(old, dict)
            and not ("name" in value and value["name"] != old.get("name"))
        )
        merged[key] = overlay(old, value) if deeper else copy.deepcopy(value)
    return merged


def canonical(settings) -> str:
    """Settings as JSON that does not depend on key order: what rules carry and digests are taken over."""
    if isinstance(settings, pydantic.BaseModel):
        settings = settings.model_dump(mode="json")
    return json.dumps(settings, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _checked(kind: type[Settings], content: dict, where: str):
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        # a misspelt key first: that the right one is missing follows from it
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        hint = nearest(first["loc"][-1], _fields(kind, first["loc"][:-1])) if first["type"] == "extra_forbidden" else ""
        reason = "unknown setting" if hint else f"{first['msg']}, got {first.get('input')!r}"
        raise SettingsError(f"{where}: {key}: {reason}{hint}") from None


def _fields(kind, location) -> list[str]:
    """Field names of the settings class that a location in a validation error points into."""
    for part in location:
        field = getattr(kind, "model_fields", {}).get(part)
        if field is not None:
            kind = field.annotation
        inner = [arg for arg in getattr(kind, "__args__", ()) if isinstance(arg, type) and issubclass(arg, Settings)]
        kind = inner[-1] if inner else kind
    return list(getattr(kind, "model_fields", {}))


def _numbers(value):
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and any(character.isdigit() for character in value) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value
