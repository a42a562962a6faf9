"""From a ``name:`` in YAML to the class in ``<family>/<name>.py``, with its settings checked first.

Settings are the keyword-only arguments of the one public class of the file. They are read from the source text, so
that a typo is found without importing torch. A name with a dot is a module outside the package.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any

REQUIRED = object()
PACKAGE = Path(__file__).parent
_TYPES = {kind.__name__: kind for kind in (int, float, bool, str, list, dict, tuple)}


class SettingsError(ValueError):
    """A setting is wrong; the message names the place, the key and what would be right."""


def names(family: str) -> list[str]:
    """Names of the plugins in a family, sorted."""
    if (PACKAGE / family).is_dir():
        return sorted(path.stem for path in (PACKAGE / family).glob("*.py") if path.stem != "__init__")
    tree = ast.parse((PACKAGE / f"{family}.py").read_text(encoding="utf-8"))
    return sorted(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    )


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
    known = settings_of(family, spec["name"])
    checked = {"name": spec["name"]}
    for key, value in spec.items():
        if key == "name":
            continue
        if key not in known:
            raise SettingsError(f"{where}.{key}: {spec['name']} has no such setting{nearest(key, known)}")
        checked[key] = _convert(value, known[key][0], f"{where}.{key}")
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
    """Import a plugin and return its class (or its function, for a family that is one module)."""
    definition = _definition(family, name)
    if "." in name:
        return getattr(importlib.import_module(name), definition.name)
    module = f"sedflow.{family}.{name}" if (PACKAGE / family).is_dir() else f"sedflow.{family}"
    return getattr(importlib.import_module(module), definition.name)


def constant(family: str, name: str):
    """A module-level constant of a family that is one module, without importing it."""
    for node in ast.parse((PACKAGE / f"{family}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise KeyError(f"sedflow/{family}.py has no constant {name}")


def source_file(family: str, name: str) -> Path:
    """The file a plugin lives in."""
    if "." in name:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise SettingsError(f"{family}: no module {name!r} can be imported")
        return Path(found.origin)
    if (PACKAGE / family).is_dir():
        path = PACKAGE / family / f"{name}.py"
        if name == "__init__" or not path.is_file():
            raise SettingsError(f"{family}: there is no {name!r}{nearest(name, names(family))}")
        return path
    return PACKAGE / f"{family}.py"


def nearest(key: str, known) -> str:
    """End of a message: the nearest known name, or all of them."""
    close = difflib.get_close_matches(str(key), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {sorted(str(k) for k in known)}"


def _definition(family: str, name: str):
    path = source_file(family, name)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    if (PACKAGE / family).is_dir() or "." in name:
        public = [node for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        if len(public) != 1:
            raise SettingsError(
                f"{path}: a plugin file defines exactly one public class, found {[n.name for n in public]}"
            )
        return public[0]
    public = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not public or name.startswith("_"):
        raise SettingsError(f"{family}: there is no {name!r}{nearest(name, names(family))}")
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


def _annotation(node):
    if node is None:
        return Any
    try:
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, _TYPES)
    except (NameError, TypeError):
        return Any


def _convert(value, kind, where: str):
    import pydantic

    if kind is Any:
        return value
    if kind is bool and not isinstance(value, bool):
        raise SettingsError(f"{where}: {value!r} is not true or false")
    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        raise SettingsError(f"{where}: {value!r} does not fit: {error.errors()[0]['msg']}") from None
