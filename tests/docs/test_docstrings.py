"""Docstrings are where Python looks for them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PACKAGES = ("recsys", "recall_server", "rank_server", "gateway", "offline", "benchmarks", "docker")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_holds_a_text_that_is_not_its_docstring(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    astray = [
        f"{function.name}:{statement.lineno}"
        for function in functions
        for statement in function.body[1:]
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    ]
    assert astray == []
