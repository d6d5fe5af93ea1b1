"""Tests marked `long` run with `--long` only, whatever else is selected; with it, nothing else does."""

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

@pytest.mark.long
def test_of_hours(): ...

@pytest.mark.long
@pytest.mark.alone
def test_of_hours_and_alone(): ...

@pytest.mark.alone
def test_alone(): ...

def test_of_seconds(): ...
"""


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        ([], ["test_alone", "test_of_seconds"]),
        (["-m", "alone"], ["test_alone"]),
        (["-m", "not alone"], ["test_of_seconds"]),
        (["--long"], ["test_of_hours", "test_of_hours_and_alone"]),
        (["--long", "-m", "alone"], ["test_of_hours_and_alone"]),
    ],
    ids=" ".join,
)
def test_which_tests_run(arguments: list[str], ran: list[str], tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    long\n    alone\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", *arguments, str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    lines = [line.split(" ") for line in finished.stdout.splitlines()]
    assert sorted(words[1].partition("::")[2] for words in lines if words[0] == "PASSED") == ran, finished.stdout
    assert finished.returncode == 0
