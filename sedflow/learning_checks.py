"""Check that the learning settings of a stage fit together: losses, augmentations, teachers and processes."""

from __future__ import annotations

import logging

from sedflow import plugins
from sedflow.params import LOSS_WEIGHTS, LossWeight, Stage, System, validated
from sedflow.plugins import SettingsError
from sedflow.row_checks import (
    Kinds,
    check_augment_rows,
    check_loss_rows,
    check_order_of_mixing,
    check_repeated,
    idle_parts,
)

_ORDER = ("any", "waveform", "spectrum", "features")
_KALDI_BANDS = 128  # of encoders that do not say how many they read

log = logging.getLogger(__name__)


def check_learning(system: System, stage: Stage, kinds: Kinds, at: str) -> None:
    """Check all learning settings of a stage.

    Parameters
    ----------
    kinds : mapping    source of the corpora → kind of its labels

    Raises
    ------
    SettingsError    with the place, what is wrong and what would be right
    """
    if stage.random_crops and ((stage.cached and stage.freeze) or stage.pseudo_labels):
        stored = "pseudo-labels" if stage.pseudo_labels else "cached features"
        raise SettingsError(f"{at}.random_crops: {stored} are of whole clips; let the corpus cut them instead")
    for loss in stage.losses:
        _check_loss(loss, stage, f"{at}.losses")
        check_loss_rows(system, loss, stage, kinds, f"{at}.losses")
    _check_augment(system, stage, kinds, f"{at}.augment")
    for doubt in idle_parts(system, stage, kinds, at):
        log.warning("%s", doubt)
    _check_listener(stage, at)
    if stage.monitor.network == "teacher" and stage.teacher is None:
        raise SettingsError(f"{at}.monitor.network: this stage trains no teacher; set it to student")
    for source, share in stage.sources.items():
        if share % stage.processes:
            raise SettingsError(
                f"{at}.sources: {share} clips of {source!r} cannot be shared by {stage.processes} processes, "
                "which read the same number each"
            )


def _check_loss(loss: dict, stage: Stage, at: str) -> None:
    plugins.check("losses", {key: value for key, value in loss.items() if key not in LOSS_WEIGHTS}, at)
    validated(LossWeight, {key: loss[key] for key in LOSS_WEIGHTS if key in loss}, f"{at}: {loss['name']}")
    if loss["name"] == "consistency" and stage.teacher is None:
        raise SettingsError(f"{at}: consistency needs a teacher; add `teacher: {{decay: 0.999}}` or drop the loss")
    needs = {
        ("consistency", "count_kinds"): ("group_divisor", loss.get("group_divisor")),
        ("consistency", "dilute"): ("classes: known", loss.get("classes") == "known"),
        ("distillation", "network"): ("checkpoint", loss.get("checkpoint")),
    }
    for (name, setting), (needed, there) in needs.items():
        if loss["name"] == name and loss.get(setting) and not there:
            raise SettingsError(f"{at}.{setting}: {name} ignores it without `{needed}`; add that or drop it")
    if loss["name"] == "distillation" and not (stage.pseudo_labels or loss.get("checkpoint")):
        raise SettingsError(
            f"{at}: distillation needs a source of pseudo-labels: `pseudo_labels: <ensemble>` in the stage, or "
            "`checkpoint:` in the loss for a detector that runs during training"
        )


def _check_augment(system: System, stage: Stage, kinds: Kinds, at: str) -> None:
    """Augmentations exist, take these settings, come in the order of their domains, and reach what they should."""
    encoders = [encoder["name"] for encoder in system.detector.encoders]
    latest, checked = 0, []
    _check_mixups([plugins.check("augment", spec, at) for spec in stage.augment if spec.get("name") == "mixup"], at)
    for spec in stage.augment:
        settings = plugins.check("augment", spec, at)
        checked.append(settings)
        name = settings["name"]
        check_augment_rows(settings, stage, kinds, at)
        check_repeated(settings, system, at)
        domain = _domain(settings, at)
        if domain != "any" and _ORDER.index(domain) < latest:
            raise SettingsError(
                f"{at}: {name!r} works on the {domain}, which comes before {_ORDER[latest]}: move it up"
            )
        latest = max(latest, _ORDER.index(domain))
        for encoder in settings.get("encoders") or encoders:
            if encoder not in encoders:
                raise SettingsError(
                    f"{at}: {name}.encoders: no encoder {encoder!r}{plugins.nearest(encoder, encoders)}"
                )
            _check_reach(name, domain, encoder, stage.cached and encoder in stage.freeze, at)
            if name == "filter_augment":
                _check_bands(settings, encoder, at)
        if name == "feature_noise" and not (stage.cached and stage.freeze):
            raise SettingsError(f"{at}: feature_noise disturbs cached features, but this stage reads none")
        if name == "mixup":
            heard = {encoder for encoder in encoders if not (stage.cached and encoder in stage.freeze)}
            if spared := heard - set(settings.get("encoders") or encoders):
                raise SettingsError(
                    f"{at}.encoders: labels are mixed, so {sorted(spared)} cannot read the clips unmixed; name them "
                    "too or leave `encoders` out, and use `on: waveform` if they share no other domain"
                )
    if sum(settings.get("partner") == "source" for settings in checked) > 1:
        raise SettingsError(
            f"{at}: a clip is read with one partner of its source, which serves a single wavmix; name all sources in "
            "one, or choose `partner: batch`"
        )
    check_order_of_mixing(checked, stage, at)


def _check_mixups(mixups: list[dict], at: str) -> None:
    """A clip is mixed once, and all in one domain, so that a teacher can follow."""
    if len(mixups) < 2:
        return
    ways = {(_domain(settings, at), settings.get("teacher", "clean")) for settings in mixups}
    lists = [groups for settings in mixups if not isinstance(groups := settings.get("groups", "kind"), str)]
    sources = [source for groups in lists for group in groups for source in group]
    if len(ways) > 1 or len(lists) < len(mixups) or len(set(sources)) < len(sources):
        raise SettingsError(
            f"{at}: {len(mixups)} mixups need `groups: [[<source>, …], …]` that share no source, and the same `on` "
            "and `teacher`"
        )


def _domain(settings: dict, at: str) -> str:
    domain = settings.get("on") or plugins.constant("augment", settings["name"], "DOMAIN")
    if domain not in _ORDER:
        raise SettingsError(f"{at}: {settings['name']}.on: {domain!r} is none of {_ORDER[1:]}")
    return domain


def _check_reach(name: str, domain: str, encoder: str, cached: bool, at: str) -> None:
    """Mixup mixes cached embeddings, and what works on anything works on them; the rest cannot reach them."""
    if cached:
        if name != "mixup" and domain != "any":
            others = ", name other `encoders`," if "encoders" in plugins.settings_of("augment", name) else ""
            raise SettingsError(
                f"{at}: {name!r} works on the {domain}, but {encoder!r} is frozen and only its cached features are "
                f"read; drop it here{others} or let {encoder!r} process every batch with `cached: false`"
            )
        return
    linear = plugins.has_method("encoders", encoder, "spectrogram")
    if domain == "spectrum" and not linear:
        raise SettingsError(f"{at}: {name!r}: {encoder!r} has no linear mel spectrum; use `on: features` or `waveform`")
    if domain == "features" and not linear and not plugins.has_method("encoders", encoder, "log_mel"):
        raise SettingsError(f"{at}: {name!r}: {encoder!r} does not show what its network reads; use `on: waveform`")


def check_rate(encoder: dict, rate: int, where: str) -> None:
    """The page's rate is the encoder's own: at another rate it would read sound of another pitch and length."""
    name = encoder["name"]
    front_ends = plugins.constant("encoders", name, "FRONT_ENDS", None) or {}
    chosen = encoder.get("front_end") or plugins.settings_of("encoders", name).get("front_end", (str, None))[1]
    # a front end that is not there is refused by the encoder
    own = front_ends.get(chosen, {}).get("sample_rate") or plugins.constant("encoders", name, "sample_rate", rate)
    if own != rate:
        raise SettingsError(f"{where}: sample_rate: {name} expects {own} Hz, the page says {rate}; set it to {own}")


def check_corpus_rate(corpus: dict, rate: int, where: str) -> None:
    """Clips are not written at a rate below the page's: what that cuts off, the encoders would take for silence."""
    _, usual = plugins.settings_of("corpora", corpus["name"]).get("sample_rate", (int, None))
    written = corpus.get("sample_rate", usual)
    if written is not None and written < rate:
        raise SettingsError(
            f"{where}: corpora: {corpus['name']} writes its clips at {written} Hz, below the page's sample_rate "
            f"{rate}; set `sample_rate: {rate}` in its entry"
        )


def _check_bands(settings: dict, encoder: str, at: str) -> None:
    """The most lines of the least width fit into the bands of what an encoder's network reads."""
    known = plugins.settings_of("augment", "filter_augment")
    most, width = (settings.get(key, known[key][1]) for key in ("max_bands", "min_width"))
    needed, bands = most * width, plugins.constant("encoders", encoder, "BANDS", _KALDI_BANDS)
    if needed > bands:
        raise SettingsError(
            f"{at}.max_bands: filter_augment's lines would take {needed} of the {bands} bands that {encoder} reads; "
            "lower max_bands or min_width"
        )


def _check_listener(stage: Stage, at: str) -> None:
    """A detector that runs during training reads the same clips: it follows mixing, but not changes of features."""
    if not any(loss.get("checkpoint") for loss in stage.losses):
        return
    if stage.cached and stage.freeze:
        raise SettingsError(f"{at}.losses: distillation.checkpoint needs audio, but {stage.freeze} read a cache")
    for spec in stage.augment:
        if spec["name"] != "mixup" and _domain(spec, at) == "features":
            raise SettingsError(
                f"{at}.augment: {spec['name']!r} changes features that only the student has; the detector of "
                "distillation.checkpoint would read a different clip. Drop it, or distil stored pseudo-labels"
            )
