"""What every process holds, and what its files take, over time."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil

from tests.faults.system import System

MIB = 1 << 20


class Samples:
    """Values by (process, kind), next to the seconds at which they were taken."""

    def __init__(self, system: System) -> None:
        self._system, self._started = system, time.monotonic()
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.values: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._pids = {role: process.pid for role, process in system.servers().items()}

    def take(self) -> None:
        """One sample of everything."""
        now = time.monotonic() - self._started
        processes = {**self._system.servers(), **self._supervisors()}
        for name, process in processes.items():
            with suppress(psutil.Error):
                memory = process.memory_full_info()
                self._add(now, name, "rss MiB", memory.rss / MIB)
                self._add(now, name, "pss MiB", memory.pss / MIB)
                self._add(now, name, "descriptors", process.num_fds())
                self._add(now, name, "threads", process.num_threads())
        for file in self._files():
            with suppress(OSError):
                self._add(now, file.name, "file MiB", file.stat().st_size / MIB)

    def replaced(self) -> list[str]:
        """Servers that are not the processes that they were."""
        running = {role: process.pid for role, process in self._system.servers().items()}
        return [role for role, pid in self._pids.items() if running.get(role) != pid]

    def _supervisors(self) -> dict[str, psutil.Process]:
        return {f"supervision-{k}": process for k, process in enumerate(self._system.supervisors())}

    def _files(self) -> list[Path]:
        setup = self._system.setup
        return sorted(file for folder in (setup.events, setup.logs) for file in folder.iterdir() if file.is_file())

    def _add(self, now: float, name: str, kind: str, value: float) -> None:
        self.seconds[name, kind].append(now)
        self.values[name, kind].append(value)
