"""The post-processing of a page, checked before a stage is trained and not only when it is tuned."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Mapping

import pydantic

from sedflow.postprocess import PostprocessError, one_class
from sedflow.ranges import Objective

PAGE_KEYS = ("name", "candidates", "objective", "corpora")
OBJECTIVES = typing.get_args(Objective)


def check(spec: Mapping, objective: str = OBJECTIVES[0]) -> None:
    """Check the section of a system's page: ``name`` and, optional, ``candidates`` to tune over and the ``objective``.

    ``corpora`` are the folders of those whose classes it is for, by default all; other classes are left as they are.

    Parameters
    ----------
    objective : str    what it is tuned for if the page does not set it

    Raises
    ------
    PostprocessError    an unknown key, kind or setting, a value that it cannot take, an objective that it does not
                        change; no candidates where there are none to start from
    """
    odd = sorted(set(spec) - set(PAGE_KEYS))
    if odd:
        raise PostprocessError(f"postprocess has no key {odd[0]!r}; choose from {list(PAGE_KEYS)}")
    candidates = [
        settings
        for candidate in spec.get("candidates") or [{"steps": []} if spec.get("name") == "chain" else {}]
        for settings in combinations(candidate)
    ]
    for settings in candidates:
        _check_settings(spec.get("name"), settings)
    if spec["name"] == "chain" and not spec.get("candidates"):
        raise PostprocessError("a chain needs candidates, each with its steps")
    objective = spec.get("objective", objective)
    check_objective(spec["name"], objective)
    thresholds = {_thresholds(spec["name"], settings) for settings in candidates} - {()}
    if len(thresholds) > 1 and objective != "collar_f1_at_0.5":
        raise PostprocessError(
            f"{objective} is the same at every threshold, the candidates differ in theirs ({sorted(thresholds)}): give "
            "one, or tune for 'collar_f1_at_0.5'"
        )


def _thresholds(kind: str, settings: Mapping) -> tuple[float, ...]:
    """The thresholds of a candidate that change no PSDS: a ratio of scores behind one would not be the same."""
    steps = settings.get("steps", [settings | {"name": settings.get("name", kind)}])
    names = [step.get("name") for step in steps]
    last_ratio = max((place for place, name in enumerate(names) if name in ("hysteresis", "csebbs")), default=-1)
    return tuple(step.get("threshold", 0.5) for step in steps[last_ratio + 1 :] if step.get("name") == "threshold")


def check_objective(kind: str, objective: str) -> None:
    """Refuse an unknown objective, and one that a kind does not change."""
    if objective not in OBJECTIVES:
        raise PostprocessError(f"no objective {objective!r}; choose from {list(OBJECTIVES)}")
    if kind == "threshold" and objective != "collar_f1_at_0.5":
        raise PostprocessError(f"{objective} is the same at every threshold; tune thresholds for 'collar_f1_at_0.5'")


def combinations(candidate: Mapping) -> list[dict]:
    """Every candidate that one with lists of numbers stands for, the last list's numbers taking turns first."""
    choices = [
        value if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value) else [value]
        for value in candidate.values()
    ]
    return [dict(zip(candidate, chosen, strict=True)) for chosen in itertools.product(*choices)]


def _check_settings(name: str, settings: Mapping) -> None:
    """One post-processor can be built so, and each of its values is one that it can take."""
    step = one_class(name, settings)
    for inner in getattr(step, "steps", ()):
        _check_settings(inner.get("name"), inner)
    for setting, hint in typing.get_type_hints(type(step), include_extras=True).items():
        if setting in settings and setting != "steps":
            try:
                pydantic.TypeAdapter(hint).validate_python(settings[setting], strict=True)
            except pydantic.ValidationError as error:
                problem = f"{settings[setting]!r}: {error.errors()[0]['msg']}"
                raise PostprocessError(
                    f"post-processor {settings.get('name', name)!r}: {setting} cannot be {problem}"
                ) from None
