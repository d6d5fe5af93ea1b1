"""Which source files decide what a step does: that of its function, and all of ours that it imports, near or far.

Imports are read from the source, not from `sys.modules`: what another step has loaded changes nothing, and an import
inside a function counts. What is loaded by name instead of imported is not seen; a step names it with `also`.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from recsys.errors import ContractBroken

PACKAGES = ("gateway", "offline", "rank_server", "recall_server", "recsys")
"""Ours. The versions of other libraries are not part of a key: the environment pins them."""

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds our packages."""


def code_digest(work: Iterable[Callable[..., Any]]) -> str:
    """A digest of the source of every file that the functions or classes of `work` depend on.

    Raises ContractBroken for a function whose source is in no file.
    """
    return _digest_from(frozenset(map(source_file, work)))


@cache
def _digest_from(files: frozenset[Path]) -> str:
    """Once per process and set of files: a step that is run for many cut-offs has the same code each time."""
    return files_digest(closure(files))


def files_digest(files: Iterable[Path], root: Path = ROOT) -> str:
    """A digest of names, from `root` on, and contents."""
    digest = hashlib.sha256()
    for file in sorted(files):
        name = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
        digest.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def source_file(work: Callable[..., Any]) -> Path:
    """The file in which a function, class, method or callable object is defined; of a partial, that of its function."""
    while isinstance(work, partial):
        work = work.func
    owner = getattr(work, "__self__", None)
    defined = work if owner is None else owner if isinstance(owner, type) else type(owner)
    if not hasattr(defined, "__qualname__"):
        defined = type(defined)
    file = getattr(sys.modules.get(defined.__module__), "__file__", None)
    if file is None:
        raise ContractBroken(
            f"{defined.__module__}.{defined.__qualname__} is in no file, so a change to it would not be noticed; "
            "a step needs a function of a module"
        )
    return Path(file).resolve()


def closure(files: Iterable[Path], root: Path = ROOT) -> set[Path]:
    """`files` and all files of our packages below `root` that they import, directly or not."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            if file.suffix == ".py":
                waiting += [path for name in imported(file.read_text("utf-8")) for path in _files_of(name, root)]
    return found


@lru_cache(maxsize=1024)
def imported(source: str) -> tuple[str, ...]:
    """Dotted names that a module of ours may import from our packages: of `from a.b import c` both a.b and a.b.c."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    return tuple(sorted(name for name in names if name.partition(".")[0] in PACKAGES))


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """The source of a module, in Python or Cython, and those of the packages around it, which an import runs first."""
    parts = name.split(".")
    for n in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:n])
        for file in (place / "__init__.py", place.with_suffix(".py"), place.with_suffix(".pyx")):
            if file.is_file():
                yield file
