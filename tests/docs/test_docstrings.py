"""Docstrings are where Python looks for them."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PACKAGES = ("recsys", "recall_server", "rank_server", "gateway", "offline", "benchmarks", "docker")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_holds_a_text_that_is_neither_its_docstring_nor_an_attribute_s(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    astray = [
        f"{function.name}:{statement.lineno}"
        for function in functions
        for before, statement in pairwise(function.body)
        if is_text(statement) and not isinstance(before, ast.Assign | ast.AnnAssign)
    ]
    assert astray == []


def is_text(statement: ast.stmt) -> bool:
    """Whether a statement is nothing but a string."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
