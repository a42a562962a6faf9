"""From a ``name:`` in YAML to the class in ``<family>/<name>.py``, with its settings checked first.

Settings are the keyword-only arguments of the one public class of the file, or of its function of the file's name. They
are read from the source text, so that a typo is found without importing torch. A name with a dot is a module outside
the package.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
import typing
from pathlib import Path
from typing import Any

REQUIRED = object()
PACKAGE = Path(__file__).parent
_PLAIN = {kind.__name__: kind for kind in (int, float, bool, str, list, dict, tuple)} | {"Literal": typing.Literal}


class SettingsError(ValueError):
    """A setting is wrong; the message names the place, the key and the cure."""


def names(family: str) -> list[str]:
    """Names of the plugins in a family, sorted."""
    return sorted(path.stem for path in (PACKAGE / family).glob("*.py") if path.stem != "__init__")


@functools.cache
def settings_of(family: str, name: str) -> dict[str, tuple[Any, Any]]:
    """Settings a plugin takes: name → (type, default or REQUIRED).

    Raises
    ------
    SettingsError    no such plugin; the message lists those there are
    """
    return _keyword_only(_definition(family, name))


def check(family: str, spec: dict, where: str) -> dict:
    """Check a plugin's ``{name: …, **settings}`` without importing it.

    Parameters
    ----------
    where : str    file and key that the message names, e.g. ``esc10.yaml: detector.sequence``

    Returns
    -------
    dict    the same settings with each value converted to its type (YAML's ``3e-3`` is a string)
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        raise SettingsError(f"{where}: expected {{name: …}} with one of {names(family)}, got {spec!r}")
    try:
        known = settings_of(family, spec["name"])
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
    checked = {"name": spec["name"]}
    for key, value in spec.items():
        if key == "name":
            continue
        if key not in known:
            raise SettingsError(f"{where}.{key}: {spec['name']} has no such setting{nearest(key, known)}")
        checked[key] = _convert(value, known[key][0], f"{where}.{key}: {spec['name']}")
    missing = [key for key, (_, default) in known.items() if default is REQUIRED and key not in checked]
    if missing:
        raise SettingsError(f"{where}: {spec['name']} needs the setting {missing[0]!r}")
    return checked


def build(family: str, spec: dict, *given):
    """Import a plugin and construct it with checked settings; ``given`` are its positional arguments."""
    settings = check(family, spec, f"{family}: {spec.get('name')}")
    settings.pop("name")
    return load(family, spec["name"])(*given, **settings)


def load(family: str, name: str):
    """Import a plugin and return its class or function."""
    module = name if "." in name else f"sedflow.{family}.{name}"
    return getattr(importlib.import_module(module), _definition(family, name).name)


@functools.cache
def constant(family: str, name: str, key: str, otherwise=REQUIRED):
    """A constant of a plugin's file or class, without importing it; ``otherwise`` where it has none."""
    path = source_file(family, name)
    for node in [*ast.parse(path.read_text(encoding="utf-8")).body, *_definition(family, name).body]:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == key:
            return ast.literal_eval(node.value)
    if otherwise is REQUIRED:
        raise SettingsError(f"{path}: a plugin of {family!r} says its {key}")
    return otherwise


@functools.cache
def has_method(family: str, name: str, method: str) -> bool:
    """Whether the class of a plugin defines a method, or sets an attribute of that name; without importing it."""
    definition = _definition(family, name)
    methods = {node.name for node in definition.body if isinstance(node, ast.FunctionDef)}
    attributes = {node.attr for node in ast.walk(definition) if isinstance(node, ast.Attribute)}
    return method in methods or method in attributes


def source_file(family: str, name: str) -> Path:
    """The file a plugin lives in."""
    if "." in name:
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # a part of the name, or the name, is no module's
            found = None
        if found is None or found.origin is None:
            raise SettingsError(f"no module {name!r} can be imported")
        return Path(found.origin)
    path = PACKAGE / family / f"{name}.py"
    if name == "__init__" or not path.is_file():
        raise SettingsError(f"there is no {name!r} in sedflow/{family}{nearest(name, names(family))}")
    return path


def nearest(key: str, known) -> str:
    """End of a message: the nearest known name, or all of them."""
    close = difflib.get_close_matches(str(key), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; choose from {sorted({str(k) for k in known})}"


@functools.cache
def _definition(family: str, name: str):
    path = source_file(family, name)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    named = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == path.stem]
    if named:
        return named[0]
    public = [node for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    if len(public) != 1:
        raise SettingsError(f"{path}: a plugin file defines exactly one public class, found {[n.name for n in public]}")
    return public[0]


def _keyword_only(definition) -> dict[str, tuple[Any, Any]]:
    if isinstance(definition, ast.ClassDef):
        inits = [node for node in definition.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        if not inits:
            return {}
        definition = inits[0]
    arguments = definition.args
    known = {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        kind = _annotation(argument.annotation)
        known[argument.arg] = (kind, REQUIRED if default is None else ast.literal_eval(default))
    return known


@functools.cache
def _types() -> dict:
    from sedflow import ranges

    return _PLAIN | {name: kind for name, kind in vars(ranges).items() if name[0].isupper()}


def _annotation(node):
    if node is None:
        return Any
    try:
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, _types())
    except (NameError, TypeError):
        return Any


def _convert(value, kind, where: str):
    import pydantic

    if kind is Any:
        return value
    if kind is bool and not isinstance(value, bool):
        raise SettingsError(f"{where} takes true or false, not {value!r}")
    if isinstance(value, bool) and kind is not bool and bool not in typing.get_args(kind):
        raise SettingsError(f"{where} does not take {str(value).lower()}")
    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        raise SettingsError(f"{where} cannot take {value!r}: {error.errors()[0]['msg']}") from None
