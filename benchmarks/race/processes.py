"""What processes cost, from /proc: CPU time of all their threads, resident and proportional memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_KIB_PER_MIB = 1024
_GONE = (FileNotFoundError, ProcessLookupError)

Parts = Mapping[str, Sequence[int]]
"""Process ids by the name of the part of a server to which they belong."""


def tree(pid: int) -> list[int]:
    """The process and all that it has started, as far as they are running."""
    found = [pid]
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += tree(int(child))
    except _GONE:
        return []
    return found


def cpu_seconds(parts: Parts) -> dict[str, float]:
    """User and system time by part, of all threads of its processes; a process that is gone counts 0."""
    return {name: sum(_cpu_seconds(pid) for pid in pids) for name, pids in parts.items()}


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except _GONE:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mib(parts: Parts) -> dict[str, float]:
    """MiB of all processes together: `rss` counts a shared page in each of them, `pss` divides it by its sharers."""
    totals = {"rss": 0.0, "pss": 0.0}
    for pid in [pid for pids in parts.values() for pid in pids]:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.lower() in totals:
                totals[name.lower()] += int(value.split()[0]) / _KIB_PER_MIB
    return totals


def title_of(pid: int) -> str:
    """What a process is called: the title that it has given itself, or the file or module that it runs."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    if words[0].startswith("ray::"):
        return words[0].strip()
    program = Path(words[0]).name
    if not program.startswith("python"):
        return program
    if "-c" in words:
        return "worker"
    names = [word for word in words[1:] if word and not word.startswith("-")]
    return Path(names[0]).name if names else program
