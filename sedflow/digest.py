"""What code a command runs, as a digest: how Snakemake learns that a result is older than the code that makes it.

The modules are found from the imports in the body of the command's function in ``steps.py``, and from there through
all of our own imports. Plugins are loaded by name, so the caller names them. Comments and docstrings do not
count: prose never retrains.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from sedflow import plugins
from sedflow.download import pretrained
from sedflow.files import sha256

PACKAGE = Path(__file__).parent
STEPS = PACKAGE / "steps.py"
DATA_OF = {"html_page.py": ("*.html", "*.css", "*.js")}  # files of the package that a module reads as they are


def code(command: str, used: Iterable[tuple[str, str]] = ()) -> str:
    """Digest of the code that a command runs.

    Parameters
    ----------
    command : str    name of a command of ``steps.py``
    used : iterable of (family, name)    plugins that its settings name
    """
    return _digest(modules(command, used))


@functools.cache
def plugin(family: str, name: str) -> str:
    """Digest of a plugin's code: its file, its family's contract and what they import of ours."""
    return _digest(_reached([plugins.source_file(family, name)]))


def modules(command: str, used: Iterable[tuple[str, str]] = ()) -> list[Path]:
    """Files of the package that a command imports, its plugins included, in order of path."""
    if command not in _commands():
        raise KeyError(f"steps.py has no command {command!r}; choose from {sorted(_commands())}")
    return _reached([*_commands()[command], *(plugins.source_file(family, name) for family, name in used)])


def weights_file(name: str) -> str:
    """Where weights that a page names are: a path is a user's file, other names are of data/pretrained.yaml."""
    return name if {"/", "."} & set(str(name)) else f"models/pretrained/{name}.pt"


def weights(name: str) -> str:
    """What identifies weights that a page names.

    Raises
    ------
    SettingsError    a name that data/pretrained.yaml lacks, or a file that does not exist
    """
    if name in pretrained():
        return weights_content(name)
    if weights_file(name) != name:
        raise plugins.SettingsError(f"no weights {name!r}{plugins.nearest(name, pretrained())}")
    if not Path(name).is_file():
        raise plugins.SettingsError(
            f"weights: {name}: no such file; correct the path, or use a name from data/pretrained.yaml"
        )
    return _sum(name, Path(name).stat().st_mtime_ns)


def weights_content(name: str) -> str:
    """What decides on the bytes of official weights: their sum or, while nobody knows it, their address."""
    entry = pretrained()[name]
    return entry["sha256"] or entry["url"]


@functools.cache  # a plan asks for every encoder of every page
def _sum(path: str, changed_ns: int) -> str:
    return sha256(path)


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(_read(path)[1].encode())
    return digest.hexdigest()[:16]


def _reached(waiting: list[Path]) -> list[Path]:
    """These files and all that they import of ours, in order of path."""
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _read(path)[0]
    return sorted(found)


@functools.cache
def _commands() -> dict[str, list[Path]]:
    """Functions of ``steps.py`` → the modules that each imports in its body."""
    body = ast.parse(STEPS.read_text(encoding="utf-8")).body
    return {node.name: list(_imported(node)) for node in body if isinstance(node, ast.FunctionDef)}


@functools.cache
def _read(path: Path) -> tuple[list[Path], str]:
    """Our own files that a file imports or reads, and its source text without comments, docstrings and layout."""
    if path.suffix != ".py":
        return [], path.read_text(encoding="utf-8")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    contract = [path.parent / "__init__.py"] if PACKAGE in path.parent.parents else []  # what its family shares
    data = [found for pattern in DATA_OF.get(path.name, ()) for found in path.parent.glob(pattern)]
    imported = [*contract, *data, *_imported(tree)]
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return imported, ast.unparse(tree)


def _imported(tree: ast.AST) -> Iterator[Path]:
    """Our own modules that a piece of source imports, wherever in it the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from filter(None, map(_file, names))


@functools.cache
def _file(module: str) -> Path | None:
    """The file of one of our modules; None for other libraries and for names that are no modules."""
    package, *parts = module.split(".")
    if package != PACKAGE.name or not parts:
        return None
    path = PACKAGE.joinpath(*parts)
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)
