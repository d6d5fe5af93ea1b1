from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from offline.local import supervision
from offline.local.supervision import Program, SupervisedProgram
from tests.waiting import PATIENCE_SECONDS, eventually

WAITS = "import sys; print('up', flush=True); sys.stdin.read(); print('draining', flush=True)"


def supervised(code: str, log: Path, lines: list[str]) -> SupervisedProgram:
    server = SupervisedProgram(Program("a", ("-c", code), "h:1"), log, lines.append)
    server.start()
    return server


def end(server: SupervisedProgram) -> None:
    server.terminate()
    assert server.join(PATIENCE_SECONDS)
    assert (server.state, server.pid) == ("stopped", 0)


def test_a_program_that_dies_is_started_again_later_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(supervision, "MAX_DELAY_SECONDS", 0.04)
    lines: list[str] = []
    server = supervised("raise SystemExit(3)", tmp_path / "a.log", lines)
    eventually(lambda: len(lines) >= 5, "it has died several times")
    end(server)
    assert [line.rpartition("in ")[2] for line in lines[:5]] == ["0.01 s", "0.02 s", "0.04 s", "0.04 s", "0.04 s"]
    assert lines[0] == "a died (exit code 3); restarts in 0.01 s"


def test_a_program_that_lived_long_starts_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(supervision, "STEADY_SECONDS", 0.0)
    lines: list[str] = []
    server = supervised("", tmp_path / "a.log", lines)
    eventually(lambda: len(lines) >= 3, "it has died several times")
    end(server)
    assert set(lines) == {"a died (exit code 0); restarts in 0.01 s"}


@pytest.mark.parametrize("log", ["/dev/full", "/proc/nowhere/a.log"])
def test_a_log_that_cannot_be_written_stops_no_program(log: str) -> None:
    lines: list[str] = []
    server = supervised("import sys; sys.stdin.read()", Path(log), lines)
    eventually(lambda: server.pid != 0, "it runs")
    first = server.pid
    os.kill(first, signal.SIGKILL)
    eventually(lambda: server.pid not in (0, first), "it runs again")
    end(server)
    assert sum("runs without a log" in line for line in lines) == (log != "/dev/full")
    assert "a died (signal 9); restarts in 1 s" in lines


def test_both_starts_append_to_one_log_and_the_end_is_its_own(tmp_path: Path) -> None:
    log, lines = tmp_path / "a.log", list[str]()
    server = supervised(WAITS, log, lines)
    eventually(lambda: log.exists() and log.read_text() == "up\n", "it is up")
    assert os.getsid(server.pid) == server.pid
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: log.read_text() == "up\nup\n", "it is up again")
    end(server)
    assert server.code == -signal.SIGTERM


def test_a_beat_is_heard_once(tmp_path: Path) -> None:
    server = supervised("import os, time; os.write(0, b'.'); time.sleep(600)", tmp_path / "a.log", [])
    eventually(server.heard_beat, "it has sent one")
    assert not server.heard_beat()
    end(server)
