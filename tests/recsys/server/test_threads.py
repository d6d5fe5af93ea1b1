"""Every serving process limits the threads of linear algebra itself, however it is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROCESSES = ("gateway", "recall_server", "rank_server")
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_THREAD_LIMIT", "GOTO_NUM_THREADS")
CORES = len(os.sched_getaffinity(0))
"""OpenBLAS starts no more threads than there are cores."""

AT_EXIT = """
import atexit, json, os

def tell():
    from threadpoolctl import threadpool_info
    with open(os.environ["POOLS"], "w") as file:
        json.dump(threadpool_info(), file)

atexit.register(tell)
"""
"""Run by Python before the program: it tells what was loaded, and with how many threads, when the process ends."""


def pools(tmp_path: Path, start: list[str], limits: dict[str, str]) -> dict[str, int]:
    """Threads per library of linear algebra in a process that shows its help and ends."""
    (tmp_path / "sitecustomize.py").write_text(AT_EXIT)
    environment = {name: value for name, value in os.environ.items() if name not in LIMITS}
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "POOLS": str(tmp_path / "pools.json"), **limits}
    subprocess.run([sys.executable, *start, "--help"], env=environment, check=True, capture_output=True)
    found = json.loads((tmp_path / "pools.json").read_text())
    return {pool["filepath"]: pool["num_threads"] for pool in found if pool["user_api"] == "blas"}


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_started_by_hand_computes_in_one_thread(process: str, tmp_path: Path) -> None:
    found = pools(tmp_path, ["-m", process], {})
    assert found, "numpy is loaded"
    assert set(found.values()) == {1}


def test_console_scripts_do_so_too(tmp_path: Path) -> None:
    scripts: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    serving = [target for target in scripts.values() if target.partition(".")[0] in PROCESSES]
    assert len(serving) == len(PROCESSES)
    for target in serving:
        module, _, function = target.partition(":")
        found = pools(tmp_path, ["-c", f"import sys; from {module} import {function} as f; sys.exit(f())"], {})
        assert set(found.values()) == {1}, target


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_what_the_user_set_stays(name: str, tmp_path: Path) -> None:
    assert set(pools(tmp_path, ["-m", "rank_server"], {name: "2"}).values()) == {min(2, CORES)}
