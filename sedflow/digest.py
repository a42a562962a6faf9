"""What code a command runs, as a digest: how Snakemake learns that a result is older than the code that makes it.

The modules are found from the imports in the body of the command's function in ``cli.py``, and from there on through
all imports of our own. Plugins are loaded by name, so they are named by whoever asks. Comments and docstrings do not
count: prose never retrains.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from sedflow import plugins

PACKAGE = Path(__file__).parent
COMMANDS = PACKAGE / "cli.py"


def code(command: str, used: Iterable[tuple[str, str]] = ()) -> str:
    """Digest of the code that a command runs.

    Parameters
    ----------
    command : str    name of a command of ``cli.py``
    used : iterable of (family, name)    plugins that its settings name
    """
    digest = hashlib.sha256()
    for path in modules(command, used):
        digest.update(_bare(path).encode())
    return digest.hexdigest()[:16]


def modules(command: str, used: Iterable[tuple[str, str]] = ()) -> list[Path]:
    """Files of the package that a command imports, its plugins included, in order of path."""
    functions = [node for node in _tree(COMMANDS).body if isinstance(node, ast.FunctionDef)]
    body = [node for node in functions if node.name == command]
    if not body:
        raise KeyError(f"cli.py has no command {command!r}; there are {[node.name for node in functions]}")
    waiting = [*_imported(body[0]), *(plugins.source_file(family, name) for family, name in used)]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imports_of(path)
    return sorted(found)


@functools.cache
def _imports_of(path: Path) -> tuple[Path, ...]:
    package = [path.parent / "__init__.py"] if PACKAGE in path.parent.parents else []  # a plugin's contract
    return (*package, *_imported(_tree(path)))


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


def _file(module: str) -> Path | None:
    """The file of one of our modules; None for other libraries and for names that are no modules."""
    package, *parts = module.split(".")
    if package != PACKAGE.name or not parts:
        return None
    path = PACKAGE.joinpath(*parts)
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@functools.cache
def _bare(path: Path) -> str:
    """Source text without comments, docstrings and layout."""
    tree = _tree(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
