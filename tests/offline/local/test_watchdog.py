from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline.local import watchdog
from offline.local.supervision import Program, SupervisedProgram
from offline.local.watchdog import MAX_MISSED, HealthCheck, MissedHealthChecks, watch
from recsys.server import healthcheck
from recsys.server.loading import announced, is_loading
from tests.waiting import PATIENCE_SECONDS, eventually

NO_ANSWER = "DEADLINE_EXCEEDED: Deadline Exceeded"
MISSED = HealthCheck(answered=False)
BUSY = HealthCheck(answered=False, busy=True)
ANSWERED = HealthCheck(answered=True)

SLEEPS = "import time; time.sleep(600)"
SPINS = "while True: pass"
BEATS = "import os\nwhile True: os.write(0, b'.')"


class Watched:
    """A program that is supervised, and health checks whose answers are given; rounds are short."""

    def __init__(self, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        self._monkeypatch = monkeypatch
        self.server = SupervisedProgram(Program("a", ("-c", code), "h:1"), folder / "a.log", self.lines.append)
        self.server.start()
        eventually(lambda: self.server.pid != 0, "it runs")
        self.pid = self.server.pid

    def watched(self, answers: list[str], *, busy: bool = False) -> list[str]:
        """What is said until the answers are used up."""
        left, ended = iter(answers), threading.Event()

        def state(target: str, *, timeout_seconds: float) -> str:
            assert (target, timeout_seconds) == ("h:1", 0.01)
            answer = next(left, None)
            if answer is None:
                ended.set()
            return answer or "SERVING"

        self._monkeypatch.setattr(watchdog, "ROUND_SECONDS", 0.01)
        self._monkeypatch.setattr(watchdog, "BUSY_SHARE", 0.0 if busy else float("inf"))
        self._monkeypatch.setattr(healthcheck, "state", state)
        thread = threading.Thread(target=watch, args=(self.server, 0.02, ended, self.lines.append))
        thread.start()
        eventually(lambda: not thread.is_alive() or self.server.pid != self.pid, "it is killed, or checked in vain")
        ended.set()
        thread.join(PATIENCE_SECONDS)
        return [line for line in self.lines if "gave no answer" in line]


@pytest.fixture
def supervised() -> Iterator[list[Watched]]:
    """Programs to be stopped at the end."""
    programs: list[Watched] = []
    yield programs
    for program in programs:
        program.server.terminate()
        program.server.kill(program.server.pid)
        assert program.server.join(PATIENCE_SECONDS)


def test_missed_checks_count_from_the_last_answer_of_the_same_process() -> None:
    checks = MissedHealthChecks()
    missed = []
    for pid, answered in [(1, False), (1, True), (1, False), (1, False), (1, True), (1, False), (2, False), (2, True)]:
        checks.record(pid, HealthCheck(answered))
        missed.append(checks.missed)
    assert missed == [0, 0, 1, 2, 0, 1, 0, 0]


def test_a_busy_process_whose_loop_is_silent_may_miss_more_checks_than_an_idle_one() -> None:
    checks = MissedHealthChecks()
    checks.record(1, ANSWERED)
    for _ in range(MAX_MISSED - 1):
        checks.record(1, BUSY)
        assert not checks.too_many
    checks.record(1, BUSY)
    assert checks.too_many
    checks.record(1, ANSWERED)
    for check in (MISSED, BUSY, MISSED):
        assert not checks.too_many
        checks.record(1, check)
    assert checks.too_many


def test_a_busy_process_whose_loop_runs_is_never_killed_and_an_idle_one_is() -> None:
    checks = MissedHealthChecks()
    checks.record(1, ANSWERED)
    for _ in range(1_000):
        checks.record(1, HealthCheck(answered=False, beats=True, busy=True))
        assert not checks.too_many
    for _ in range(watchdog.MAX_MISSED_IDLE):
        assert not checks.too_many
        checks.record(1, HealthCheck(answered=False, beats=True))
    assert checks.too_many, "gRPC is deadlocked"


def test_a_silent_child_is_killed_and_that_is_said(
    supervised: list[Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Watched(SLEEPS, tmp_path, monkeypatch)
    supervised.append(child)
    lines = child.watched(["SERVING", NO_ANSWER, NO_ANSWER])
    assert lines == [f"a (pid {child.pid}) gave no answer for 0.02 to 0.03 s: killed"]
    eventually(lambda: "a died (signal 9); restarts in 1 s" in child.lines, "its death is said")


@pytest.mark.parametrize(("code", "killed"), [(SPINS, True), (BEATS, False)], ids=["endless loop", "flooded"])
def test_a_child_that_uses_the_cpu_is_killed_only_if_its_loop_is_silent(
    supervised: list[Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, killed: bool
) -> None:
    child = Watched(code, tmp_path, monkeypatch)
    supervised.append(child)
    assert child.watched(["SERVING", *[NO_ANSWER] * (MAX_MISSED - 1)], busy=True) == []
    assert bool(child.watched(["SERVING", *[NO_ANSWER] * MAX_MISSED], busy=True)) == killed


HOLDS_THE_LOCK = """
import ctypes, threading
from recsys.server.loading import announced

def load():
    with announced():
        ctypes.PyDLL(None).sleep(3600)  # unlike CDLL, with the global lock held: no thread of the process runs

thread = threading.Thread(target=load)
thread.start()
thread.join()
"""


def test_a_child_that_loads_is_left_alone_although_no_thread_of_it_can_run(
    supervised: list[Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hnswlib loads an index like this. The load uses no CPU either, as if the disk were slow."""
    child = Watched(HOLDS_THE_LOCK, tmp_path, monkeypatch)
    supervised.append(child)
    eventually(lambda: is_loading(child.pid), "it loads")
    silent = ["SERVING", *[NO_ANSWER] * (watchdog.MAX_MISSED_LOADING - 1)]
    assert child.watched(silent) == []
    assert child.watched([*silent, NO_ANSWER]) != [], "it does not take for ever"


def test_the_name_of_a_process_is_its_own_again_when_it_has_loaded() -> None:
    before = Path("/proc/self/comm").read_text()
    with pytest.raises(ValueError, match="damaged"), announced():  # noqa: PT012
        assert is_loading(os.getpid())
        raise ValueError("damaged")
    assert not is_loading(os.getpid())
    assert Path("/proc/self/comm").read_text() == before
    assert not is_loading(2**22), "there is no such process"


def test_checks_that_a_load_misses_are_no_hang() -> None:
    checks = MissedHealthChecks()
    checks.record(1, ANSWERED)
    for _ in range(MAX_MISSED):
        checks.record(1, HealthCheck(answered=False, loading=True))
    assert not checks.too_many
    checks.record(1, MISSED)
    assert not checks.too_many
    checks.record(1, MISSED)
    assert checks.too_many, "it has loaded, and hangs"


def test_the_cpu_time_of_a_process_is_read() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        eventually(lambda: watchdog._cpu_seconds(busy.pid) >= 0.05, "it has used CPU time")
        busy.kill()
    assert watchdog._cpu_seconds(busy.pid) == 0.0


@pytest.mark.parametrize(
    "answers",
    [
        [NO_ANSWER] * 5,
        ["SERVING", NO_ANSWER, "SERVING", NO_ANSWER],
        ["SERVING", *["NOT_SERVING"] * 5],
        ["SERVING", *["RESOURCE_EXHAUSTED: 256 calls are in flight"] * 5],
    ],
    ids=["slow start", "short pauses", "not serving", "busy"],
)
def test_a_living_child_is_left_alone(
    supervised: list[Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[str]
) -> None:
    child = Watched(SLEEPS, tmp_path, monkeypatch)
    supervised.append(child)
    assert child.watched(answers) == []
    assert child.server.pid == child.pid
