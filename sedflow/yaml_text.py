"""YAML as pages are written: read, numbers as numbers, one mapping laid over another."""

from __future__ import annotations

import copy
from pathlib import Path

import yaml

from sedflow.plugins import SettingsError


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """PyYAML, but as in YAML 1.2, which DVC reads: ``on``, ``off``, ``yes`` and ``no`` are words, keys stand once."""

    def construct_mapping(self, node, deep=False):
        """A mapping; a duplicate key would silently override itself."""
        begin, end = node.start_mark.index, node.end_mark.index
        written = [key for key, _ in node.value if begin <= key.start_mark.index < end]  # the others `<<` brought
        words = [key.value if isinstance(key, yaml.ScalarNode) else key for key in written]
        if twice := [key for place, key in enumerate(written) if words[place] in words[:place]]:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice[0].value!r} appears twice; delete one", twice[0].start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in known if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str):
    """YAML text as Python values."""
    return yaml.load(text, _Loader)


def read_yaml(path) -> dict:
    """Read a YAML mapping; numbers that YAML 1.1 takes for strings (``1e-05``) are numbers."""
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected keys and values, got {type(content).__name__}")
    return _numbers(content)


def overlay(base: dict, changes: dict) -> dict:
    """A copy of ``base`` with ``changes`` laid over it, mapping by mapping; lists are replaced whole.

    A mapping with its own ``name`` is another plugin and replaces the old one, settings and all; ``null`` takes a key
    away.
    """
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
            continue
        old = merged.get(key)
        deeper = (
            isinstance(value, dict)
            and isinstance(old, dict)
            and not ("name" in value and value["name"] != old.get("name"))
        )
        if isinstance(value, dict):
            merged[key] = overlay(old if deeper else {}, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


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
