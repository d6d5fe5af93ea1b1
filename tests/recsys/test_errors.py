from __future__ import annotations

import ast
import inspect

import grpc
import pytest

from recsys import errors
from recsys.server.status import GRPC_CODES, code_of


def tree() -> list[type[errors.RecsysError]]:
    found, waiting = [], [errors.RecsysError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting.extend(child for child in kind.__subclasses__() if child.__module__ == errors.__name__)
    return found


def test_every_class_of_the_tree_has_a_code() -> None:
    assert set(tree()) == set(GRPC_CODES)


def test_the_drawing_names_every_class_under_its_parent() -> None:
    drawing = ast.get_docstring(ast.parse(inspect.getsource(errors))) or ""
    drawn = [line.split("─ ")[1].split()[0] for line in drawing.splitlines() if "─ " in line]
    assert sorted(drawn) == sorted(kind.__name__ for kind in tree() if kind is not errors.RecsysError)


@pytest.mark.parametrize("kind", tree())
def test_the_drawing_tells_the_code(kind: type[errors.RecsysError]) -> None:
    drawing = ast.get_docstring(ast.parse(inspect.getsource(errors))) or ""
    line = next(line for line in drawing.splitlines() if kind.__name__ in line.split())
    if line.rstrip().endswith(tuple(code.name for code in grpc.StatusCode)):
        assert line.split()[-1] == GRPC_CODES[kind].name


def test_a_class_of_a_packages_own_takes_the_code_of_its_ancestor() -> None:
    class Skipped(errors.Unreachable):
        pass

    assert code_of(Skipped("x")) is grpc.StatusCode.UNAVAILABLE
    assert code_of(errors.BundleDamaged("x")) is grpc.StatusCode.FAILED_PRECONDITION
