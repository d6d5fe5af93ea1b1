"""Resident memory of the servers over the time of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.faults.system import System

MIB = 1 << 20
_PAUSE_SECONDS = 0.25


class Memory:
    """By role: MiB at the beginning, and at most; of the gateway's successors as well."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._processes = system.servers()
        self.before = self._sizes()
        self.most = dict(self.before)

    def _sizes(self) -> dict[str, float]:
        sizes = {}
        for role, process in self._processes.items():
            with suppress(psutil.Error):
                sizes[role] = process.memory_info().rss / MIB
        return sizes

    def look(self) -> None:
        """Takes a sample; a server that was replaced is found again."""
        sizes = self._sizes()
        if len(sizes) < len(self.before):
            self._processes = self._system.servers()
        for role, size in sizes.items():
            self.most[role] = max(size, self.most.get(role, 0.0))

    @property
    def worst(self) -> tuple[float, float]:
        """MiB of the server that grew most at its worst, and as a multiple of its own beginning."""
        growth = {role: self.most[role] / size for role, size in self.before.items()}
        role = max(growth, key=lambda role: growth[role])
        return self.most[role], growth[role]


@contextmanager
def watched(system: System) -> Iterator[Memory]:
    """Looks until the block ends."""
    memory, ended = Memory(system), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            memory.look()
            time.sleep(_PAUSE_SECONDS)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()
