"""With CI=true a test that is skipped is a failure, unless it needs `../shared` and there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest

@pytest.mark.skipif(True, reason="../shared/data/ml-1m-timed is not here")
def test_of_real_data(): ...

@pytest.fixture
def data(): pytest.skip("/some/shared/data is not here")

def test_of_a_fixture(data): ...

def test_of_a_tool(): pytest.skip("needs hadolint")

@pytest.mark.xfail(reason="is known")
def test_that_fails(): assert False

def test_that_passes(): ...
"""
REAL_DATA, TOOL = {"test_of_real_data", "test_of_a_fixture"}, {"test_of_a_tool"}


@pytest.mark.parametrize(
    ("in_ci", "shared", "failed"),
    [("true", False, TOOL), ("true", True, TOOL | REAL_DATA), ("", True, set()), ("", False, set())],
)
def test_skips_that_are_failures(in_ci: str, shared: bool, failed: set[str], tmp_path: Path) -> None:
    tests = tmp_path / "checkout/tests"
    tests.mkdir(parents=True)
    shutil.copy(ROOT / "tests/conftest.py", tests)
    (tests / "test_some.py").write_text(TESTS)
    if shared:
        (tmp_path / "shared").mkdir()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", str(tests)]
    environment = {**os.environ, "CI": in_ci}
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    lines = [line.split(" ") for line in finished.stdout.splitlines()]
    found = {(words[0], words[1].partition("::")[2]) for words in lines if words[0] in ("FAILED", "ERROR", "XFAIL")}
    assert {name for outcome, name in found if outcome != "XFAIL"} == failed, finished.stdout
    assert ("XFAIL", "test_that_fails") in found
    assert "1 passed" in finished.stdout
    assert finished.returncode == (1 if failed else 0)
