"""The memory of a command is that of its whole process tree, shared pages counted once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks/memory.py"
HOLDS = "import time; held = bytearray(b'x') * ({mib} << 20); time.sleep({seconds})"
FORKS = f"import os; {HOLDS.format(mib=96, seconds=0)}; os.fork(); time.sleep(2)"


def measured(tmp_path: Path, code: str) -> tuple[int, dict[str, object]]:
    out = tmp_path / "memory.json"
    command = [sys.executable, str(PROGRAM), "--out", str(out), "--", sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    return done.returncode, json.loads(out.read_text())


def test_a_child_of_a_child_counts(tmp_path: Path) -> None:
    inner = HOLDS.format(mib=64, seconds=2)
    outer = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {inner!r}]).wait(); sys.exit(3)"
    code, found = measured(tmp_path, outer)
    assert code == found["exit_code"] == 3
    assert 64 <= found["peak_mib"]["Pss_Anon"] < 2 * 64  # type: ignore[index]
    assert found["curve"][0] == ["seconds", "Pss", "Pss_Anon", "Pss_File", "Pss_Shmem"]  # type: ignore[index]
    assert found["cpu_seconds"] > 0  # type: ignore[operator]


@pytest.mark.skipif(sys.platform != "linux", reason="PSS is read from /proc")
def test_what_processes_share_counts_once(tmp_path: Path) -> None:
    _, found = measured(tmp_path, FORKS)
    assert 96 <= found["peak_mib"]["Pss_Anon"] < 1.5 * 96  # type: ignore[index]


def test_without_a_command_nothing_is_measured() -> None:
    done = subprocess.run([sys.executable, str(PROGRAM)], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no command; put one after --" in done.stderr
