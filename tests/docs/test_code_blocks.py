"""Python on the pages compiles, and what it imports is there."""

from __future__ import annotations

import ast
import importlib

import pytest

from tests.docs.pages import Block, blocks

PYTHON = [block for block in blocks("python") if not block.title]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles_and_its_imports_exist(block: Block) -> None:
    tree = ast.parse(block.text, str(block))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.title], ids=str)
def test_files_on_pages_compile(block: Block) -> None:
    ast.parse(block.text, block.title)


def test_there_are_blocks_to_test() -> None:
    assert PYTHON
