"""The losses and augmentations that a stage names, built from their entries on the page."""

from __future__ import annotations

from collections.abc import Callable

from sedflow import plugins
from sedflow.params import LOSS_WEIGHTS
from sedflow.responses import read_responses


def build_losses(specs: list[dict]) -> list[tuple[str, Callable, dict]]:
    """(label, loss, its entry) of a page's losses; weight and ramp are the learner's business."""
    losses = []
    for number, spec in enumerate(specs):
        twice = sum(other["name"] == spec["name"] for other in specs) > 1
        losses.append((f"{spec['name']}_{number}" if twice else spec["name"], build_loss(spec), spec))
    return losses


def build_loss(spec: dict):
    """A loss from its entry on a page."""
    return plugins.build("losses", {key: value for key, value in spec.items() if key not in LOSS_WEIGHTS})


def listeners(losses: list[dict]) -> list[str]:
    """Files of the finished detectors that run while a stage trains, from its losses' entries."""
    return [loss["checkpoint"] for loss in losses if loss.get("checkpoint")]


def check_listeners(losses: list[tuple], classes: list[str], sample_rate: int | None, augment: list[dict]) -> None:
    """Raise SettingsError if a detector that runs during training, of `build_losses`, cannot follow the student."""
    for label, loss, _ in losses:
        for key, own in (("labels", classes), ("sample_rate", sample_rate)):
            if (its := getattr(loss, key, None)) not in (None, own):
                raise plugins.SettingsError(f"{label}: its checkpoint has the {key} {its}, this page {own}")
        encoders = getattr(getattr(loss, "detector", None), "encoders", {})
        deaf = [name for name, encoder in encoders.items() if not hasattr(encoder, "spectrogram")]
        if deaf and any(spec.get("on") == "spectrum" for spec in augment):
            raise plugins.SettingsError(
                f"{label}: the {deaf[0]} of its checkpoint has no linear mel to follow a mixup on: spectrum; mix on: "
                "features or on: waveform"
            )


def check_recordings(augment: list[dict], sample_rate: int) -> None:
    """Read the recordings that augmentations need, once.

    Raises
    ------
    SettingsError    a folder is missing, or holds none or one that cannot be read
    """
    for spec in augment:
        if "folder" in spec:
            try:
                read_responses(spec["folder"], spec.get("sample_rate", sample_rate))
            except (OSError, ValueError) as error:
                raise plugins.SettingsError(f"augment: {error}") from None


def build_augmentation(spec: dict, page: dict) -> tuple[Callable, str, dict]:
    """(function, domain, settings) of an entry of a page's ``augment``; what it has to know of ``page`` is added."""
    settings = plugins.check("augment", spec, "augment")
    name = settings.pop("name")
    of_page = {key: page[key] for key in plugins.settings_of("augment", name) if page.get(key) is not None}
    domain = settings.get("on") or plugins.constant("augment", name, "DOMAIN")
    return plugins.load("augment", name), domain, of_page | settings
