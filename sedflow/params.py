"""Every setting once: types, units, defaults and checks.

``params.yaml`` holds the choices shared by all systems, ``workflow/systems/<system>.yaml`` one system. YAML states
what differs from the defaults here and in the plugins' constructors.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pydantic

from sedflow.plugins import SettingsError, nearest
from sedflow.ranges import NotNegative, Objective, Positive, Share, each_once
from sedflow.yaml_text import read_yaml

PluginSpec = dict[str, Any]
HELD_OUT = ("validation", "test")
PSEUDO = "pseudo"  # the source of clips that an ensemble labelled
EVENT_KINDS = ("strong", "soft")  # of labels that say when
SAY_WHEN = (*EVENT_KINDS, PSEUDO)  # the labels of an ensemble do so, too
# sources that a page may switch off whether its corpora have them or not, and the kinds of their labels
SOURCE_KINDS = {
    "synthetic_strong": "strong",
    "real_strong": "strong",
    "weak": "weak",
    "unlabeled": "none",
    "soft": "soft",
    PSEUDO: PSEUDO,
}


def split_of(source: str) -> str:
    """What a source is for: "validation", "test", or "train" for all others."""
    return source if source in HELD_OUT else "train"


class Settings(pydantic.BaseModel):
    """Frozen settings that refuse unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


Seed = Annotated[int, pydantic.Field(ge=0)]
NOT_EMPTY = pydantic.Field(min_length=1)
# seeds go by their number, embeddings by their encoder, clips by their corpus' folder: of two the first would be lost
ONE_RUN = each_once(lambda seed: seed, "{0} appears twice; a seed is one run")
ONE_ENCODER = each_once(
    lambda spec: spec.get("name"), "{0!r} appears twice; a detector has each encoder once, drop one"
)
ONE_FOLDER = each_once(
    lambda spec: spec.get("as", spec.get("name")),
    "two have the folder {0!r}; give one of them its own with `as: {0}_2`",
)
Seeds = Annotated[list[Seed], NOT_EMPTY, ONE_RUN]


class Shared(Settings):
    """``params.yaml``: the choices shared by all systems."""

    system: str
    variant: str
    corpora: list[str] = pydantic.Field(description="folders of the system's corpora, which DVC cannot read elsewhere")
    seeds: Seeds
    tuning: Tuning
    threads: int = pydantic.Field(ge=1)


class Tuning(Settings):
    """How post-processing is tuned on validation."""

    objective: Objective


class Detector(Settings):
    """The network: encoders → common grid → sequence head → strong and weak scores."""

    encoders: Annotated[list[PluginSpec], NOT_EMPTY, ONE_ENCODER]
    sequence: PluginSpec
    frame_rate: float = pydantic.Field(25.0, gt=0, description="frames per second of the scores")
    pooling: Literal["attention", "attention_over_time", "mean", "max"] = "attention"
    dropout: float = pydantic.Field(0.0, ge=0, lt=1, description="before and after the sequence head")
    merge_dropout: float | None = pydantic.Field(None, ge=0, lt=1, description="before it; `dropout` if unset")
    merge_dim: int | None = pydantic.Field(
        None, gt=0, description="linear layer over the joined embeddings; none if unset"
    )
    merge_norm: bool = pydantic.Field(False, description="normalise each encoder's embeddings before they are joined")
    match: Literal["average", "nearest"] = pydantic.Field(
        "average", description="how embeddings come to the common grid: averaged or interpolated, or the nearest frame"
    )


class Optimizer(Settings):
    """Learning rates by part, in optimiser steps."""

    name: Literal["adam", "adamw"] = "adamw"
    lr: dict[str, Positive] = pydantic.Field(description="peak learning rate: `head` and each encoder that is trained")
    layer_decay: dict[str, Share] = pydantic.Field({}, description="by encoder: a layer's rate over that of the next")
    weight_decay: NotNegative = 0.0
    warmup_steps: int = pydantic.Field(0, ge=0)
    warmup: Literal["linear", "exponential"] = "linear"
    schedule: Literal["cosine", "constant", "constant_then_cosine"] = "cosine"
    constant_steps: int = pydantic.Field(0, ge=0, description="steps before constant_then_cosine begins to fall")
    floor: float = pydantic.Field(0.0, ge=0, le=1, description="last learning rate as a share of the peak")
    clip_norm: float | None = pydantic.Field(None, gt=0)

    @pydantic.model_validator(mode="after")
    def _acts(self):
        if self.floor and self.schedule == "constant":
            raise ValueError("floor is the end of a decreasing schedule; a constant one has none, drop it")
        if self.constant_steps and self.schedule != "constant_then_cosine":
            raise ValueError(f"constant_steps belongs to constant_then_cosine, not to {self.schedule}; drop it")
        return self


class LossWeight(Settings):
    """How much a loss counts, see `optimization.ramp`; beside the settings of its plugin."""

    weight: NotNegative = 1.0
    ramp: Literal["exponential", "linear", "constant"] = "exponential"
    ramp_steps: int = pydantic.Field(0, ge=0)
    ramp_limit: Positive = 1.0

    @pydantic.model_validator(mode="after")
    def _acts(self):
        if self.ramp_limit != 1 and self.ramp != "linear":
            raise ValueError(f"ramp_limit is where a linear ramp ends; the ramp is {self.ramp}, drop it")
        if "ramp" in self.model_fields_set and (self.ramp == "constant") == (self.ramp_steps > 0):
            raise ValueError(f"a {self.ramp} ramp with ramp_steps {self.ramp_steps} does nothing; set both or neither")
        return self


LOSS_WEIGHTS = tuple(LossWeight.model_fields)


class Teacher(Settings):
    """The mean teacher: an exponential moving average of the student's parameters."""

    decay: float = pydantic.Field(0.999, gt=0, lt=1)
    ramped: bool = pydantic.Field(True, description="decay min(1 − 1/(step+1), decay)")
    mode: Literal["train", "eval"] = pydantic.Field(
        "train", description="dropout and batch statistics of the teacher; eval: none, and averages of the student's"
    )


class Monitor(Settings):
    """What decides, at validations, which weights are kept: the mean of some metrics of a network."""

    network: Literal["student", "teacher", "either"] = pydantic.Field("either", description="either: the better one")
    metrics: list[Literal["psds1", "psds2", "psds1_macro", "segment_mpauc", "bce", "step"]] = pydantic.Field(
        ["psds1", "psds2"], min_length=1, description="bce, the loss of frames: the smaller; step: the last weights"
    )


class Stage(Settings):
    """One training run."""

    start_from: str | None = None
    freeze: list[str] = []
    cached: bool = pydantic.Field(
        True,
        description="frozen encoders are read from the cache; false: they process every batch, with its augmentations",
    )
    sources: dict[str, int] = pydantic.Field(description="clips per batch, by source")
    losses: list[PluginSpec] = pydantic.Field(min_length=1)
    augment: list[PluginSpec] = []
    optimizer: Optimizer
    teacher: Teacher | None = None
    steps: int = pydantic.Field(gt=0, description="optimiser steps")
    validate_every: int = pydantic.Field(gt=0, description="optimiser steps between validations")
    keep_top: int = pydantic.Field(1, ge=1)
    monitor: Monitor = Monitor()
    precision: Annotated[Literal["32", "bf16", "fp16"], pydantic.BeforeValidator(str)] = "32"
    accumulate: int = pydantic.Field(1, ge=1, description="batches per optimiser step")
    processes: int = pydantic.Field(
        1, ge=1, description="that share each batch: BatchNorm and losses see all of it, mixing and other draws a part"
    )
    sampling: dict[str, Literal["uniform", "balanced"]] = pydantic.Field(
        {}, description="by source; balanced: clips with rare classes come more often"
    )
    epoch_clips: dict[str, Annotated[int, pydantic.Field(ge=1)]] = pydantic.Field(
        {}, description="by source: how many clips are drawn before one may come again; all of them if unset"
    )
    random_crops: bool = pydantic.Field(
        False, description="read a different part of longer clips each time; weak ones, and if false all, are refused"
    )
    frame_labels: Literal["touched", "centre"] = pydantic.Field(
        "touched", description="an event counts in frames that it touches, or in those whose middle it covers"
    )
    pseudo_labels: str | None = pydantic.Field(None, description="an ensemble of the page, for the distillation loss")
    dropout: dict[str, Annotated[float, pydantic.Field(ge=0, lt=1)]] = pydantic.Field(
        {}, description="rates that differ from the detector's: `head` and each encoder that is trained"
    )
    fixed_batchnorm: bool = pydantic.Field(False, description="encoders keep the BatchNorm statistics they came with")
    workers: int = pydantic.Field(0, ge=0, description="loader processes")


class Inference(Settings):
    """Scores of audio of any length: overlapping windows, averaged."""

    window_seconds: float = pydantic.Field(10.0, gt=0)
    hop_seconds: float = pydantic.Field(5.0, gt=0)
    batch: int = pydantic.Field(8, gt=0)


class Member(Settings):
    """One finished detector of an ensemble, of the seed that is trained with its pseudo-labels."""

    variant: str = "default"
    stage: str
    network: Literal["student", "teacher"] = "student"


class Ensemble(Settings):
    """Detectors whose averaged logits are stored as pseudo-labels of training clips."""

    members: list[Member] = pydantic.Field(min_length=1)
    sources: list[str] = pydantic.Field(min_length=1)


class Comparison(Settings):
    """Variants side by side: ``snakemake <system>_comparison`` makes their table and plot."""

    groups: dict[str, list[str]] = pydantic.Field(
        min_length=1, description="title → variants, in the order of the rows"
    )
    seeds: Seeds = [1, 2, 3]


class System(Settings):
    """``workflow/systems/<system>.yaml``: one system of the literature, or of ours."""

    title: str
    published: dict[str, float] = {}
    headlines: list[str] = pydantic.Field([], description="metrics that its report shows first, because the paper does")
    corpora: Annotated[list[PluginSpec], NOT_EMPTY, ONE_FOLDER]
    clip_seconds: float = pydantic.Field(10.0, gt=0)
    sample_rate: int = pydantic.Field(
        16000, gt=0, description="of what the encoders hear, Hz; other audio is resampled"
    )
    detector: Detector
    feature_shards: int = pydantic.Field(2, ge=1, description="cache jobs per source")
    stages: dict[str, Stage] = pydantic.Field(min_length=1)
    ensembles: dict[str, Ensemble] = {}
    check_mix: bool = pydantic.Field(False, description="warn where a batch leaves BEATs-SED's mix of sources")
    inference: Inference = Inference()
    postprocess: PluginSpec
    variants: dict[str, dict] = {}
    comparison: Comparison | None = None


Shared.model_rebuild()


def read_shared(path="params.yaml") -> Shared:
    """Read and check ``params.yaml``."""
    return validated(Shared, read_yaml(path), str(path))


def canonical(settings) -> str:
    """Settings as JSON that does not depend on key order: what rules carry and digests are taken over."""
    if isinstance(settings, pydantic.BaseModel):
        settings = settings.model_dump(mode="json")
    return json.dumps(settings, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def validated(kind: type[Settings], content: dict, where: str):
    """Settings of a class from a mapping; an unknown or wrong one is named with its place and the nearest known one."""
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        # a misspelt key first: that the right one is missing follows from it
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":
            raise SettingsError(": ".join(filter(None, (where, key, str(first["ctx"]["error"]))))) from None
        hint = nearest(first["loc"][-1], _fields(kind, first["loc"][:-1])) if first["type"] == "extra_forbidden" else ""
        absent = first["type"] == "missing"  # then pydantic shows the whole page
        reason = (
            "unknown setting" if hint else "is missing" if absent else f"{first['msg']}, got {first.get('input')!r}"
        )
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
