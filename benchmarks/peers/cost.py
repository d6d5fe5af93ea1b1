"""What a run costs: CPU seconds of this process and its children, and its peak memory."""

from __future__ import annotations

import re
import resource
from pathlib import Path


def cpu_seconds() -> float:
    """User and system time of this process and of its ended children."""
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    return used


def peak_memory_bytes() -> int:
    """The process's own high-water mark (VmHWM); the larger ru_maxrss of a parent is not taken over."""
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii", errors="replace"))
        if found is not None:
            return int(found.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class BudgetMeter:
    """The CPU seconds of one run against its budget; `before` is what earlier, interrupted runs of it have used."""

    def __init__(self, budget_seconds: float, *, before: float = 0.0) -> None:
        self.budget_seconds = budget_seconds
        self.before = before
        self.start = cpu_seconds()

    def spent(self) -> float:
        """CPU seconds used so far, earlier runs included."""
        return self.before + cpu_seconds() - self.start

    def left(self) -> float:
        """CPU seconds left; negative where the budget is overrun."""
        return self.budget_seconds - self.spent()
