"""What a piece of work costs: CPU seconds of this process and its children, and the most memory it held."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"
"""Written to `_CLEAR`, sets the peak back to what is held now; see proc(5)."""

_OPEN: list[Meter] = []
"""Meters that run now, outermost first: resetting the peak for an inner one must not make an outer one forget."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one piece of work."""

    cpu_seconds: float
    peak_memory_bytes: int
    """Of this process; where the system cannot reset it (not Linux), since the process began."""


class Meter:
    """`with Meter() as meter: …`, then `meter.cost`."""

    cost: Cost

    def __enter__(self) -> Self:
        self._peak = 0
        _note_peak()
        _OPEN.append(self)
        self._started = cpu_seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _note_peak()
        _OPEN.remove(self)
        self.cost = Cost(round(cpu_seconds() - self._started, 3), self._peak)

    def saw(self, peak: int) -> None:
        """Takes note of a peak."""
        self._peak = max(self._peak, peak)


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended, user and system."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_memory() -> int:
    """Bytes: the high-water mark of the resident set."""
    try:
        lines = _STATUS.read_text("ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used << 10


def _note_peak() -> None:
    """Passes the peak so far to the open meters and begins a new one."""
    peak = peak_memory()
    for meter in _OPEN:
        meter.saw(peak)
    try:
        _CLEAR.write_text(_RESET_PEAK, "ascii")
    except OSError:
        return
