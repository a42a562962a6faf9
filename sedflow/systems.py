"""A system's page: read, and checked for consistency before anything runs."""

from __future__ import annotations

import functools
import graphlib
import json
import logging
import re
from pathlib import Path

from sedflow import plugins
from sedflow.learning_checks import check_corpus_rate, check_learning, check_rate
from sedflow.params import HELD_OUT, PSEUDO, SOURCE_KINDS, Stage, System, canonical, validated
from sedflow.plugins import SettingsError, nearest
from sedflow.runs import HEADLINES
from sedflow.source_mix import mix_doubts
from sedflow.yaml_text import overlay, read_yaml

log = logging.getLogger(__name__)

_NAME = re.compile(r"\w[\w.+-]*")
_ALLOWED = "write it with letters, digits, `_`, `-`, `+` and `.`"


def read_system(name: str, variant: str = "default", folder="workflow/systems") -> System:
    """Read and check one system's page, with the differences of a variant applied.

    Raises
    ------
    SettingsError    with the file, the key and the nearest known one
    """
    page, path = read_page(name, folder)
    variants = page.get("variants") or {}
    if variant not in ("default", *variants):
        raise SettingsError(f"{path}: there is no variant {variant!r}{nearest(variant, ['default', *variants])}")
    system = check_system(of_variant(page, variant), path)
    check_order(page, variant, path)
    return system


def read_page(name: str, folder="workflow/systems") -> tuple[dict, str]:
    """A page as it is written, not to be changed, and its path."""
    path = Path(folder) / f"{name}.yaml"
    if not path.is_file():
        pages = sorted(page.stem for page in Path(folder).glob("*.yaml"))
        raise SettingsError(f"there is no system {name!r} in {folder}{nearest(name, pages)}")
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{path}: rename the page: its name becomes a folder; {_ALLOWED}")
    return _read(str(path), path.stat().st_mtime_ns), str(path)


@functools.cache
def _read(path: str, changed_ns: int) -> dict:
    return read_yaml(path)


def sketch(name: str, variant: str, folder="workflow/systems") -> System:
    """A system without the checks of its plugins, its corpora excepted: enough to know what it reads, and quick."""
    page, path = read_page(name, folder)
    return _validated(of_variant(page, variant), path)


def of_variant(page: dict, variant: str) -> dict:
    """A page with the differences of one of its variants applied."""
    return overlay(page, (page.get("variants") or {}).get(variant) or {})


def check_system(page: dict, where: str = "system") -> System:
    """Check a system's settings: every key, every plugin's arguments, and what has to fit together."""
    system = _validated(page, where)
    _check_names(system, where)
    if system.inference.hop_seconds > system.inference.window_seconds:
        raise SettingsError(
            f"{where}: inference.hop_seconds: {system.inference.hop_seconds:g} is more than window_seconds "
            f"{system.inference.window_seconds:g}, so parts of long recordings would be skipped; lower it"
        )
    for encoder in system.detector.encoders:
        own = {key: value for key, value in encoder.items() if key != "weights"}
        plugins.check("encoders", own, f"{where}: detector.encoders")
        check_rate(encoder, system.sample_rate, where)
    for spec in system.corpora:
        check_corpus_rate(spec, system.sample_rate, where)
    plugins.check("sequence", system.detector.sequence, f"{where}: detector.sequence")
    for name, stage in system.stages.items():
        _check_stage(system, name, stage, where)
        for doubt in mix_doubts(stage.sources, "a batch") if system.check_mix else ():
            log.warning("%s: stages.%s.sources: %s", where, name, doubt)
    for split in sorted(set(HELD_OUT) - _offered(system), reverse=True):
        raise SettingsError(f"{where}: corpora: none has {split} clips, which every run is scored on; add some")
    for key in ("headlines", "published"):
        for name in getattr(system, key):
            if name not in HEADLINES:
                raise SettingsError(f"{where}: {key}: no metric {name!r}{nearest(name, HEADLINES)}")
    known = {"default", *system.variants}
    for group, variants in (system.comparison.groups if system.comparison else {}).items():
        for variant in set(variants) - known:
            raise SettingsError(f"{where}: comparison.groups.{group}: no variant {variant!r}{nearest(variant, known)}")
    return system


def _check_names(system: System, where: str) -> None:
    """What a page names becomes folders of files, in commands that a shell reads."""
    named = {key: list(getattr(system, key)) for key in ("stages", "variants", "ensembles")}
    named["corpora.as"] = [spec["as"] for spec in system.corpora if "as" in spec]
    for key, names in named.items():
        for name in names:
            if not _NAME.fullmatch(name):
                raise SettingsError(f"{where}: {key}: {name!r} names a folder; {_ALLOWED}")


def _validated(page: dict, where: str) -> System:
    corpora = [_check_corpus(spec, where) for spec in page.get("corpora") or []]
    return validated(System, {**page, "corpora": corpora}, where)


def build_corpus(spec: dict):
    """The plugin of an entry of a page's ``corpora``; built once, since it may read large tables."""
    return _built(canonical({key: value for key, value in spec.items() if key != "as"}))


@functools.cache
def _built(spec: str):
    return plugins.build("corpora", json.loads(spec))


def check_order(page: dict, variant: str, where: str) -> None:
    """Whatever a variant's stages start from or learn from exists, is of its frame grid, and comes before them.

    Parameters
    ----------
    page : dict    without a variant's differences; ensembles join several of its variants
    """
    for name, changes in (page.get("variants") or {}).items():
        if "ensembles" in (changes or {}):
            raise SettingsError(f"{where}: variants.{name}.ensembles: all variants share the ensembles of their page")
    systems = {variant: _validated(of_variant(page, variant), where)}
    order: dict[tuple[str, str], list[tuple[str, str]]] = {}
    waiting = [(variant, stage) for stage in systems[variant].stages]
    for name, ensemble in systems[variant].ensembles.items():
        for member in ensemble.members:
            _check_member(page, member, systems, f"{where}: ensembles.{name}")
    while waiting:
        run = waiting.pop()
        if run not in order:
            order[run] = _follows(systems, *run, where)
            waiting += order[run]
    try:
        graphlib.TopologicalSorter(order).prepare()
    except graphlib.CycleError as error:
        circle = " → ".join(f"{stage} ({of})" for of, stage in reversed(error.args[1]))
        raise SettingsError(f"{where}: stages wait for each other: {circle}") from None


def _check_member(page: dict, member, systems: dict[str, System], at: str) -> None:
    """A member's variant, stage and network exist; its variant is put into ``systems``."""
    variants = {"default", *page.get("variants", {})}
    if member.variant not in variants:
        raise SettingsError(f"{at}: no variant {member.variant!r}{nearest(member.variant, variants)}")
    if member.variant not in systems:
        systems[member.variant] = _validated(of_variant(page, member.variant), f"{at}: {member.variant}")
    stages = systems[member.variant].stages
    if member.stage not in stages:
        raise SettingsError(f"{at}: no stage {member.stage!r} in {member.variant}{nearest(member.stage, stages)}")
    if member.network == "teacher" and stages[member.stage].teacher is None:
        raise SettingsError(f"{at}: {member.stage!r} of {member.variant} trains no teacher; take its student")


def _follows(systems: dict[str, System], variant: str, stage: str, where: str) -> list[tuple[str, str]]:
    """(variant, stage) of the runs that a run needs."""
    system = systems[variant]
    if stage not in system.stages:
        raise SettingsError(f"{where}: {variant} has no stage {stage!r}{nearest(stage, system.stages)}")
    needed = [(variant, start)] if (start := system.stages[stage].start_from) else []
    learnt_from = system.stages[stage].pseudo_labels
    for member in system.ensembles[learnt_from].members if learnt_from in system.ensembles else ():
        other = systems[member.variant]
        for key, own, its in (
            ("detector.frame_rate", system.detector.frame_rate, other.detector.frame_rate),
            ("clip_seconds", system.clip_seconds, other.clip_seconds),
        ):
            if own != its:
                raise SettingsError(
                    f"{where}: ensembles.{learnt_from}: {member.variant} has {key} {its:g}, but {variant}, which "
                    f"learns from it in stage {stage!r}, has {own:g}"
                )
        needed.append((member.variant, member.stage))
    return needed


def _check_corpus(spec: dict, where: str) -> dict:
    """A corpus may set ``as: <folder>`` for its files: two systems can then use it with different settings."""
    own = {key: value for key, value in spec.items() if key != "as"} if isinstance(spec, dict) else spec
    place = {"as": str(spec["as"])} if own != spec else {}
    return plugins.check("corpora", own, f"{where}: corpora") | place


def _check_stage(system: System, name: str, stage: Stage, where: str) -> None:
    at = f"{where}: stages.{name}"
    encoders = [encoder["name"] for encoder in system.detector.encoders]
    _check_parts(stage, encoders, at)
    of_corpora = {source: kind for spec in system.corpora for source, kind in build_corpus(spec).sources.items()}
    kinds = SOURCE_KINDS | of_corpora
    _check_sources(system, stage, kinds, at)
    check_learning(system, stage, kinds, at)
    _check_schedule(stage, at)
    _check_pseudo_labels(system, stage, at)
    if stage.start_from is not None and stage.start_from not in system.stages:
        raise SettingsError(f"{at}.start_from: no stage {stage.start_from!r}{nearest(stage.start_from, system.stages)}")
    _check_cached(system, stage, at)


def _check_cached(system: System, stage: Stage, at: str) -> None:
    """The cache holds outputs of encoders with their first weights: no earlier stage has trained them."""
    before, seen = stage.start_from, set()
    while stage.cached and before in system.stages and before not in seen:
        if trained := sorted(set(stage.freeze) - set(system.stages[before].freeze)):
            raise SettingsError(
                f"{at}.freeze: {before!r} trains {trained[0]!r}, but the cache holds its features from before; let it "
                "process every batch with `cached: false`"
            )
        seen.add(before)
        before = system.stages[before].start_from


def _check_parts(stage: Stage, encoders: list[str], at: str) -> None:
    """What is frozen exists, and every part that trains has a learning rate."""
    for frozen in stage.freeze:
        if frozen not in encoders:
            raise SettingsError(f"{at}.freeze: no encoder {frozen!r}{nearest(frozen, encoders)}")
    parts = ["head", *(encoder for encoder in encoders if encoder not in stage.freeze)]
    for part in {*stage.optimizer.lr, *stage.optimizer.layer_decay, *stage.dropout} - set(parts):
        raise SettingsError(f"{at}: {part!r} is not trained in this stage{nearest(part, parts)}")
    for part in set(parts) - set(stage.optimizer.lr):
        raise SettingsError(f"{at}.optimizer.lr: no learning rate for {part!r}; freeze it or give one")


def _check_schedule(stage: Stage, at: str) -> None:
    """Schedule and validation fit into the steps there are; a warm-up may be longer, as published ones are."""
    if stage.optimizer.constant_steps >= stage.steps:
        raise SettingsError(
            f"{at}.optimizer.constant_steps: {stage.optimizer.constant_steps} of {stage.steps} steps leave none for "
            "the decay; lower it, or set `schedule: constant`"
        )
    if stage.validate_every > stage.steps or stage.steps % stage.validate_every:
        raise SettingsError(f"{at}.validate_every: {stage.validate_every} must divide steps ({stage.steps})")


def _check_sources(system: System, stage: Stage, kinds: dict[str, str], at: str) -> None:
    if sum(stage.sources.values()) < 1 or min(stage.sources.values()) < 0:
        raise SettingsError(f"{at}.sources: the shares {stage.sources} give an empty batch")
    offered = _offered(system)
    for source, share in stage.sources.items():
        if share or source not in SOURCE_KINDS:
            _check_source(source, offered | {PSEUDO} if stage.pseudo_labels else offered, f"{at}.sources")
    for key in ("sampling", "epoch_clips"):
        for source in getattr(stage, key):
            if source not in stage.sources:
                raise SettingsError(f"{at}.{key}: {source!r} is not a source here{nearest(source, stage.sources)}")
    for source, how in stage.sampling.items():
        if how == "balanced" and kinds.get(source, "none") in ("none", PSEUDO):
            raise SettingsError(f"{at}.sampling: {source!r} has no labels to balance; set it to uniform")


def _offered(system: System) -> set[str]:
    """Sources of all corpora."""
    return {source for spec in system.corpora for source in build_corpus(spec).sources}


def _check_source(source: str, offered: set[str], at: str) -> None:
    if source in HELD_OUT:
        raise SettingsError(f"{at}: {source!r} is held out and may not be trained on")
    if source == PSEUDO and source not in offered:
        raise SettingsError(f"{at}: {source!r} clips need `pseudo_labels: <ensemble>` in this stage")
    if source not in offered:
        raise SettingsError(f"{at}: no corpus has {source!r}{nearest(source, offered - set(HELD_OUT))}")


def _check_pseudo_labels(system: System, stage: Stage, at: str) -> None:
    """A stage's ensemble exists, labels clips that the stage reads, and there is a loss that learns from it."""
    if stage.pseudo_labels is None:
        return
    if stage.pseudo_labels not in system.ensembles:
        hint = nearest(stage.pseudo_labels, system.ensembles)
        raise SettingsError(f"{at}.pseudo_labels: no ensemble {stage.pseudo_labels!r}{hint}")
    sources = system.ensembles[stage.pseudo_labels].sources
    offered = _offered(system)
    for source in sources:
        _check_source(source, offered, f"{at}.pseudo_labels: ensembles.{stage.pseudo_labels}.sources")
    if not {*sources, PSEUDO} & {source for source, share in stage.sources.items() if share}:
        raise SettingsError(f"{at}.pseudo_labels: {stage.pseudo_labels!r} labels {sources}, none of them in sources")
    if not any(loss["name"] == "distillation" and not loss.get("checkpoint") for loss in stage.losses):
        raise SettingsError(
            f"{at}.pseudo_labels: nothing learns from them; add the loss `{{name: distillation}}` or drop them"
        )
