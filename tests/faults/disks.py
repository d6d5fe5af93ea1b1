"""Disks that are full, or that do not answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.contract import Allowed, Fault
from tests.faults.mounts import call, fill, mount_image, mount_memory
from tests.faults.system import Setup, System

EVENTS_DISK = Allowed(unacknowledged=True)
_LOGS_MIB, _EVENTS_MIB = 2, 16
HOLDER = """
import fcntl, os, sqlite3, sys
lock = os.open(sys.argv[1] + "-lock", os.O_RDONLY | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def _small_logs(setup: Setup) -> None:
    mount_memory(setup, setup.logs, _LOGS_MIB)


def _small_events(setup: Setup) -> None:
    mount_memory(setup, setup.events, _EVENTS_MIB)


def _freezable_events(setup: Setup) -> None:
    mount_image(setup, setup.events, _EVENTS_MIB)


@contextmanager
def _fill_logs(system: System, seconds: float) -> Iterator[None]:
    """A server that dies while the disk is full has to come back all the same."""
    filler = fill(system.setup.logs)
    system.servers()["rank"].kill()
    yield
    filler.unlink()


@contextmanager
def _fill_events(system: System, seconds: float) -> Iterator[None]:
    filler = fill(system.setup.events)
    yield
    filler.unlink()


@contextmanager
def _hold_lock(system: System, seconds: float) -> Iterator[None]:
    words = [sys.executable, "-c", HOLDER, str(system.events_file)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            holder.kill()


@contextmanager
def _freeze(system: System, seconds: float) -> Iterator[None]:
    call("fsfreeze", "-f", str(system.setup.events))
    try:
        yield
    finally:
        call("fsfreeze", "-u", str(system.setup.events))


FAULTS = (
    Fault("log-disk-full", "the disk of the logs is full, and a server dies", _fill_logs, prepare=_small_logs),
    Fault("events-disk-full", "the disk of events and answers is full", _fill_events, EVENTS_DISK, _small_events),
    Fault("events-locked", "a process that is stopped holds the lock of the events file", _hold_lock, EVENTS_DISK),
    Fault("events-disk-frozen", "the disk of events and answers blocks", _freeze, EVENTS_DISK, _freezable_events),
)
