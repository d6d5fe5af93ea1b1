"""What processes cost, from /proc: CPU time of all their threads, resident and proportional memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_MIB_OF_KIB = 1 / 1024


def tree(pid: int) -> list[int]:
    """The process and all that it has started, as far as they are running."""
    found = [pid]
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += tree(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """User and system time of each process with all of its threads, by name; a process that is gone is left out."""
    seconds = {}
    for name, pid in pids.items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        seconds[name] = (int(fields[11]) + int(fields[12])) / _TICKS
    return seconds


def memory_mib(pids: Iterable[int]) -> dict[str, float]:
    """MiB of all processes together: `rss` counts shared pages in each of them, `pss` divides them by their sharers."""
    totals = {"rss": 0.0, "pss": 0.0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.lower() in totals:
                totals[name.lower()] += int(value.split()[0]) * _MIB_OF_KIB
    return totals
