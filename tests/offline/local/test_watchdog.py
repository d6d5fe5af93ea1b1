from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor.states import ProcessStates, SupervisorStates  # type: ignore[import-untyped]

from offline.local import watchdog
from offline.local.watchdog import MAX_MISSED, MissedHealthChecks, section, watch
from recsys.server import healthcheck
from recsys.server.loading import announced, is_loading
from tests.waiting import PATIENCE_SECONDS, eventually

NO_ANSWER = "DEADLINE_EXCEEDED: Deadline Exceeded"


class Supervisord:
    """What the watchdog sees of supervisord with the one program "a"; stops when the answers are used up."""

    def __init__(self, process: Any) -> None:
        self.lines: list[str] = []
        logger = SimpleNamespace(warn=self.lines.append, info=self.lines.append)
        self.options = SimpleNamespace(mood=SupervisorStates.RUNNING, logger=logger)
        self.process_groups = {"a": SimpleNamespace(processes={"a": process})}

    def watched(self, monkeypatch: pytest.MonkeyPatch, answers: list[str], *, busy: bool = False) -> list[str]:
        """The watchdog's log after the health checks gave `answers`; rounds are shorter than the ticks of CPU time."""
        left = iter(answers)

        def state(target: str, *, timeout_seconds: float) -> str:
            assert (target, timeout_seconds) == ("h:1", 0.01)
            answer = next(left, None)
            if answer is None:
                self.options.mood = SupervisorStates.SHUTDOWN
            return answer or "SERVING"

        monkeypatch.setattr(watchdog, "ROUND_SECONDS", 0.01)
        monkeypatch.setattr(watchdog, "BUSY_SHARE", 0.0 if busy else float("inf"))
        monkeypatch.setattr(healthcheck, "state", state)
        before = set(threading.enumerate())
        watch(self, "a=h:1", "0.02")
        for thread in set(threading.enumerate()) - before:
            thread.join(PATIENCE_SECONDS)
        assert self.options.mood == SupervisorStates.SHUTDOWN
        return self.lines


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def running(pid: int, state: int = ProcessStates.RUNNING) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, state=state)


def test_missed_checks_count_from_the_last_answer_of_the_same_process() -> None:
    checks = MissedHealthChecks()
    missed = []
    for pid, answered in [(1, False), (1, True), (1, False), (1, False), (1, True), (1, False), (2, False), (2, True)]:
        checks.record(pid, answered=answered)
        missed.append(checks.missed)
    assert missed == [0, 0, 1, 2, 0, 1, 0, 0]


def test_a_silent_child_is_killed_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, child: subprocess.Popen[bytes]
) -> None:
    lines = Supervisord(running(child.pid)).watched(monkeypatch, ["SERVING", NO_ANSWER, NO_ANSWER])
    assert child.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    assert lines == [f"watchdog: a (pid {child.pid}) gave no answer for 0.02 to 0.03 s: killed, to be restarted"]


def test_a_busy_process_may_miss_more_checks_than_an_idle_one() -> None:
    checks = MissedHealthChecks()
    checks.record(1, answered=True)
    for _ in range(MAX_MISSED - 1):
        checks.record(1, answered=False, busy=True)
        assert not checks.too_many
    checks.record(1, answered=False, busy=True)
    assert checks.too_many
    checks.record(1, answered=True)
    for busy in (False, True, False):
        assert not checks.too_many
        checks.record(1, answered=False, busy=busy)
    assert checks.too_many


def test_a_busy_child_is_killed_later_than_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        silent = ["SERVING", *[NO_ANSWER] * (MAX_MISSED - 1)]
        assert Supervisord(running(busy.pid)).watched(monkeypatch, silent, busy=True) == []
        assert busy.poll() is None
        lines = Supervisord(running(busy.pid)).watched(monkeypatch, [*silent, NO_ANSWER], busy=True)
        assert busy.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    assert lines == [f"watchdog: a (pid {busy.pid}) gave no answer for 0.08 to 0.09 s: killed, to be restarted"]


HOLDS_THE_LOCK = """
import ctypes, threading
from recsys.server.loading import announced

def load():
    with announced():
        print("loading", flush=True)
        ctypes.PyDLL(None).sleep(3600)  # unlike CDLL, with the global lock held: no thread of the process runs

thread = threading.Thread(target=load)
thread.start()
thread.join()
"""


def test_a_child_that_loads_is_left_alone_although_no_thread_of_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """hnswlib loads an index like this. The load uses no CPU either, as if the disk were slow."""
    with subprocess.Popen([sys.executable, "-c", HOLDS_THE_LOCK], stdout=subprocess.PIPE) as loading:
        assert loading.stdout is not None
        assert loading.stdout.readline() == b"loading\n"
        silent = ["SERVING", *[NO_ANSWER] * (watchdog.MAX_MISSED_LOADING - 1)]
        assert Supervisord(running(loading.pid)).watched(monkeypatch, silent) == []
        assert loading.poll() is None
        lines = Supervisord(running(loading.pid)).watched(monkeypatch, [*silent, NO_ANSWER])
        assert loading.wait(PATIENCE_SECONDS) == -signal.SIGKILL, "it does not take for ever"
    assert lines == [f"watchdog: a (pid {loading.pid}) gave no answer for 0.75 to 0.76 s: killed, to be restarted"]


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
    checks.record(1, answered=True)
    for _ in range(MAX_MISSED):
        checks.record(1, answered=False, loading=True)
    assert not checks.too_many
    checks.record(1, answered=False)
    assert not checks.too_many
    checks.record(1, answered=False)
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
    monkeypatch: pytest.MonkeyPatch, child: subprocess.Popen[bytes], answers: list[str]
) -> None:
    assert Supervisord(running(child.pid)).watched(monkeypatch, answers) == []
    assert child.poll() is None


def test_what_is_no_child_is_never_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Supervisord(running(os.getppid())).watched(monkeypatch, ["SERVING", NO_ANSWER, NO_ANSWER])
    assert lines == [f"watchdog: a (pid {os.getppid()}) gave no answer for 0.02 to 0.03 s, and has exited by itself"]


def test_a_program_that_supervisord_stops_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, child: subprocess.Popen[bytes]
) -> None:
    supervisord = Supervisord(running(child.pid, ProcessStates.STOPPING))
    threading.Timer(0.1, setattr, (supervisord.options, "mood", SupervisorStates.SHUTDOWN)).start()
    assert supervisord.watched(monkeypatch, ["SERVING", NO_ANSWER, NO_ANSWER]) == []
    assert child.poll() is None


def test_the_section_names_every_program() -> None:
    text = section({"a": "h:1", "b": "h:2"}, 8.0)
    assert "\ntargets = a=h:1,b=h:2\nhang_seconds = 8.0\n" in text
