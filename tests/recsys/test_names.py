"""Names of public types: one meaning each, wherever they are read."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("recsys", "gateway", "recall_server", "rank_server", "offline")
GENERATED = ROOT / "recsys" / "v1"


def _public_types(module: Path) -> Iterator[tuple[str, bool]]:
    """Classes and CamelCase assignments at the top level of a module, and whether each is a type variable."""
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names, variable = [node.name], False
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            variable = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "TypeVar"
        else:
            continue
        yield from ((name, variable) for name in names if name[:1].isupper() and not (name.isupper() and len(name) > 1))


def test_no_two_modules_define_a_public_type_of_the_same_name() -> None:
    """Type variables mean nothing outside their module: they may share a name, but not with a type."""
    modules: dict[str, list[str]] = defaultdict(list)
    types = set()
    for package in PACKAGES:
        for module in sorted((ROOT / package).rglob("*.py")):
            if not module.is_relative_to(GENERATED):
                for name, variable in _public_types(module):
                    modules[name].append(str(module.relative_to(ROOT)))
                    types |= set() if variable else {name}
    assert len(types) > 300
    assert {name: modules[name] for name in sorted(types) if len(modules[name]) > 1} == {}
