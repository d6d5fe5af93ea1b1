"""Everything that a race has measured, and its JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from race.clients import DEGRADED, FAILED, LATE, REFUSED

OURS, AGAINST = "ours", "before"
PLAIN, WITH_KERNELS = "fastapi", "fastapi, our kernels"
NUMPY = "ours, numpy"
"""The floor without compiled kernels."""

LACKING = (DEGRADED, REFUSED, FAILED, LATE)
"""How a request ends that does not count."""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Closed:
    """One closed loop."""

    per_second: float
    """Complete answers within the deadline, per second."""
    p50_ms: float
    p99_ms: float
    cpu_ms: Mapping[str, float]
    """By part of the server, CPU time per answer that counts."""
    shares: Mapping[str, float]
    """Of all requests, those that do not count, by `LACKING`."""

    @property
    def cpu(self) -> float:
        """Milliseconds of all processes per answer that counts."""
        return sum(self.cpu_ms.values())


@dataclass(frozen=True, slots=True)
class Open:
    """One open loop at a steady rate."""

    rate: float
    """Requests per second that were due."""
    per_second: float
    """Complete and right answers within the deadline, per second."""
    p50_ms: float
    """Of all requests, from when they were due; without an answer, until it was given up."""
    p99_ms: float
    cpu_ms: Mapping[str, float]
    shares: Mapping[str, float]
    lag_ms: float
    """How much later than due requests were sent, at the 99th percentile: the generator's own limit."""
    client_cpu_ms: float
    """Of the generator per request."""


@dataclass(frozen=True, slots=True)
class Overload:
    """A calm, then too much, then calm again."""

    rate: float
    """Of the overload."""
    per_second: float
    """Complete and right answers within the deadline, per second of the overload."""
    answered_p99_ms: float
    """Of the overload's requests that were neither refused nor failed; of late ones, until they were given up."""
    shares: Mapping[str, float]
    recovery_seconds: float
    """From the end of the overload to the last request that was due after it and does not count."""
    lag_ms: float
    client_cpu_ms: float


@dataclass(slots=True)
class Race:
    """Rounds are in order in every list, so those of one round have the same place. Loads are text: keys of JSON."""

    facts: dict[str, Any]
    """What it ran on and with: `command`, `dataset`, `bundle`, `machine`, `commit`, …"""
    deadline_seconds: float
    open_deadline_seconds: float
    closed: dict[str, dict[str, list[Closed]]] = field(default_factory=dict)
    """By server and requests in flight."""
    opened: dict[str, dict[str, list[Open]]] = field(default_factory=dict)
    """By server and share of its capacity."""
    overloaded: dict[str, list[Overload]] = field(default_factory=dict)
    floors: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """By name and batch, CPU milliseconds per request."""
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    """By server, MiB `rss` and `pss` of all its processes, each server alone."""
    memory_by_dataset: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same of ours by data set."""
    absent: dict[str, str] = field(default_factory=dict)
    """Servers that did not take part, and why."""

    def save(self, path: Path) -> None:
        """Writes JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote."""
        text = json.loads(path.read_text(encoding="utf-8"))
        text["closed"] = _by_load(text["closed"], lambda loop: Closed(**loop))
        text["opened"] = _by_load(text["opened"], lambda loop: Open(**loop))
        text["overloaded"] = {name: [Overload(**load) for load in loads] for name, loads in text["overloaded"].items()}
        return cls(**text)


def _by_load(
    text: Mapping[str, Mapping[str, Sequence[Any]]], make: Callable[[Any], Made]
) -> dict[str, dict[str, list[Made]]]:
    return {
        name: {load: [make(loop) for loop in loops] for load, loops in by_load.items()}
        for name, by_load in text.items()
    }
