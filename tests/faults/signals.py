"""Signals at the servers, at what supervises them, and at what reads their logs."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from recsys.channels import DEFAULT_CHANNELS
from tests.faults import piped
from tests.faults.contract import NOTHING, RESTART, Allowed, Fault, NotPossible
from tests.faults.system import HANG_SECONDS, Setup, System
from tests.waiting import eventually

INNER = (*DEFAULT_CHANNELS, "rank")


def _signal(role: str, number: signal.Signals, about: str, allowed: Allowed = NOTHING) -> Fault:
    """The server gets a signal; its supervision has to heal that."""

    @contextmanager
    def cause(system: System, seconds: float) -> Iterator[None]:
        lost = system.servers()[role]
        lost.send_signal(number)
        yield
        replaced = "a new process is in the place of the one that was lost"
        eventually(lambda: system.servers().get(role, lost) != lost, replaced, seconds=60)

    return Fault(f"{role}-{number.name.removeprefix('SIG').lower()}", about, cause, allowed, hold=False)


@contextmanager
def _stopped(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.Error):
                process.resume()


@contextmanager
def _stop_supervision(system: System, seconds: float) -> Iterator[None]:
    with _stopped(system.supervisors()):
        yield


@contextmanager
def _kill_supervisor(system: System, seconds: float) -> Iterator[None]:
    others = [one for one in system.supervisors() if one != system.front]
    if not others:
        raise NotPossible("the front supervises by itself: see front-kill")
    for one in others:
        one.kill()
    time.sleep(1.0)
    yield


@contextmanager
def _kill_front(system: System, seconds: float) -> Iterator[None]:
    assert system.front is not None
    system.front.kill()
    yield
    system.restart()


def _read_by_pipe(setup: Setup) -> None:
    setup.launch = {role: ["-m", piped.__name__] for role in ("gateway", *INNER)}


@contextmanager
def _stop_readers(system: System, seconds: float) -> Iterator[None]:
    children = [child for server in system.servers().values() for child in server.children()]
    readers = [child for child in children if child.name() == piped.READER]
    assert readers, "no reader of logs was found"
    with _stopped(readers):
        yield


FAULTS = (
    *(_signal(role, signal.SIGKILL, f"{role} is killed") for role in INNER),
    *(_signal(role, signal.SIGSTOP, f"{role} hangs") for role in INNER),
    _signal("gateway", signal.SIGKILL, "the gateway is killed", RESTART),
    _signal("gateway", signal.SIGSTOP, "the gateway hangs", Allowed(outage_seconds=2 * HANG_SECONDS + 4, late=True)),
    Fault("supervision-stop", "the front and all that supervises the servers are stopped", _stop_supervision),
    Fault("supervisor-kill", "what supervises the servers below the front is killed", _kill_supervisor, hold=False),
    Fault(
        "front-kill",
        "the front is killed; a new one is started when the servers have drained",
        _kill_front,
        Allowed(outage_seconds=60, late=True),
        hold=False,
    ),
    Fault("log-readers-stop", "what reads the logs from a pipe is stopped", _stop_readers, prepare=_read_by_pipe),
)
