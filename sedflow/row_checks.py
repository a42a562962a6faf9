"""Which clips of a batch losses and augmentations speak of: their sources exist, fit together and stay put."""

from __future__ import annotations

from collections.abc import Mapping

from sedflow import plugins
from sedflow.params import EVENT_KINDS, PSEUDO, SAY_WHEN, Stage, System
from sedflow.plugins import SettingsError

Kinds = Mapping[str, str]  # source → kind of its labels; pseudo-labels are a kind of their own


def check_loss_rows(system: System, loss: dict, stage: Stage, kinds: Kinds, at: str) -> None:
    """A loss names sources of the stage, and some of them have what it learns from."""
    for key in ("sources", "weak_sources"):
        _check_named(loss.get(key), stage, f"{at}.{key}", loss["name"])
    sources = loss.get("sources")
    if loss["name"] == "supervised" and sources and not {kinds[source] for source in sources} - {"none", PSEUDO}:
        raise SettingsError(f"{at}.sources: supervised learns from labels, and {sources} have none")
    if loss["name"] != "distillation" or loss.get("checkpoint") or not sources:
        return
    ensemble = system.ensembles.get(stage.pseudo_labels)
    if ensemble is not None and not {*ensemble.sources, PSEUDO} & set(sources):
        raise SettingsError(f"{at}.sources: {stage.pseudo_labels!r} labels {ensemble.sources}, none of {sources}")


def check_augment_rows(settings: dict, stage: Stage, kinds: Kinds, at: str) -> None:
    """An augmentation names sources of the stage, and mixes only clips whose labels are of one kind."""
    name, groups = settings["name"], settings.get("groups", "kind")
    _check_named(settings.get("sources"), stage, f"{at}.sources", name)
    chosen = settings.get("sources") or list(stage.sources)
    if _needs_events(settings) and not {kinds[source] for source in chosen}.intersection(SAY_WHEN):
        raise SettingsError(f"{at}.sources: {name} needs labels with onsets and offsets, and {chosen} have none")
    if isinstance(groups, list):
        named = [source for group in groups for source in group]
        _check_named(named, stage, f"{at}.groups", name)
        if twice := {source for source in named if named.count(source) > 1}:
            raise SettingsError(f"{at}.groups: {sorted(twice)} are in two groups of {name}; a clip belongs to one")
    if name != "mixup":
        return
    together = [[source for source, share in stage.sources.items() if share]] if groups == "batch" else groups
    for group in together if isinstance(together, list) else ():
        found = {"strong" if kinds[source] in EVENT_KINDS else kinds[source] for source in group}
        if len(found) > 1:
            raise SettingsError(
                f"{at}.groups: {group} cannot be mixed, their labels differ in kind: {sorted(found)}; mix by `kind`, "
                "or in lists of sources whose labels are alike"
            )


def idle_parts(system: System, stage: Stage, kinds: Kinds, at: str) -> list[str]:
    """Warnings of losses and augmentations that find none of their clips, since the shares of those sources are 0.

    A source may be switched off without a word, so this is no mistake; but whoever did it may not have meant this.

    Raises
    ------
    SettingsError    no loss is left that learns anything
    """
    read = {source for source, share in stage.sources.items() if share}
    idle = {
        key: [spec for spec in getattr(stage, key) if not read & _reached(spec, system, stage, kinds)]
        for key in ("losses", "augment")
    }
    if len(idle["losses"]) == len(stage.losses):
        raise SettingsError(
            f"{at}.losses: none of them learns anything from {sorted(read)}; give a source that they learn from a "
            "share, or add a loss for these"
        )
    return [
        f"{at}.{key}: {spec['name']} does nothing: none of {sorted(_reached(spec, system, stage, kinds))} has a share "
        f"in `sources`; give one a share, or list this stage's `{key}` without it"
        for key, specs in idle.items()
        for spec in specs
    ]


def _reached(spec: dict, system: System, stage: Stage, kinds: Kinds) -> set[str]:
    """Sources of the stage, switched off or not, whose clips a loss or an augmentation does something with."""
    name, groups = spec["name"], spec.get("groups")
    reached = {*(spec.get("sources") or stage.sources)}
    if isinstance(groups, list):
        reached = {source for group in groups for source in group}
    if name == "supervised":
        return {source for source in reached if kinds[source] not in ("none", PSEUDO)}
    if name == "distillation" and not spec.get("checkpoint") and stage.pseudo_labels in system.ensembles:
        return reached & {*system.ensembles[stage.pseudo_labels].sources, PSEUDO}
    return {source for source in reached if kinds[source] in SAY_WHEN} if _needs_events(spec) else reached


def _needs_events(settings: dict) -> bool:
    """Whether an augmentation is for clips alone whose labels say when."""
    return settings["name"] == "wavmix" or (settings["name"] == "time_mask" and bool(settings.get("labels")))


def check_order_of_mixing(augment: list[dict], stage: Stage, at: str) -> None:
    """Whoever follows a mixture of clips has to find the same clips in it: nothing moves or mixes them afterwards.

    The teacher of interpolation consistency mixes what it says of unmixed clips, and a detector that listens along
    mixes what its own front end makes of them.
    """
    consistency = stage.teacher is not None and any(loss["name"] == "consistency" for loss in stage.losses)
    listens = any(loss.get("checkpoint") for loss in stage.losses)
    mixed: set[str] | None = None
    who = ""  # follows the mixture
    for settings in augment:
        name, groups = settings["name"], settings.get("groups", "kind")
        rows = {source for group in groups for source in group} if isinstance(groups, list) else set(stage.sources)
        moves = name == "frame_shift" or _needs_events(settings) or (listens and name == "time_mask")
        if mixed is not None and (moves or (name == "mixup" and mixed & rows)):
            raise SettingsError(
                f"{at}: {name!r} changes clips and labels after 'mixup', and {who} cannot follow; put it before mixup"
                + ("" if listens else ", or let the teacher read the mixture (`mixup: {teacher: mixed}`)")
            )
        clean = consistency and settings.get("teacher", "clean") == "clean"
        if name == "mixup" and (clean or (listens and settings.get("on", "waveform") != "waveform")):
            mixed = (mixed or set()) | rows
            who = "the teacher" if clean else "the detector of distillation.checkpoint"


def _check_named(sources: list[str] | None, stage: Stage, at: str, name: str) -> None:
    if sources is not None and not sources:
        raise SettingsError(f"{at}: {name} lists no source; name some, or drop the setting to use all")
    for source in sources or ():
        if source not in stage.sources:
            hint = plugins.nearest(source, stage.sources)
            raise SettingsError(f"{at}: {name} names {source!r}, which is not a source of this stage{hint}")


def check_repeated(settings: dict, system: System, at: str) -> None:
    """What an augmentation says of the page is what the page says, and its ranges are not empty."""
    name = settings["name"]
    known = plugins.settings_of("augment", name)
    values = {key: settings.get(key, default) for key, (_, default) in known.items()}
    for key in ("clip_seconds", "sample_rate"):
        if key in settings and settings[key] != (own := getattr(system, key)):
            raise SettingsError(f"{at}.{key}: {name} has {values[key]:g}, but this page {own:g}; leave `{key}` out")
    for low in (key for key in values if key.startswith("min_")):
        high = f"max_{low.removeprefix('min_')}"
        if high in values and values[low] > values[high]:
            raise SettingsError(f"{at}.{low}: {name} has {values[low]:g}, more than its {high} {values[high]:g}")
    if name == "time_mask" and values["max_seconds"] > system.clip_seconds:
        raise SettingsError(f"{at}.max_seconds: {values['max_seconds']:g} is longer than a clip; lower it")
