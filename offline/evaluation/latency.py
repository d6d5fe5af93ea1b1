"""How long answers took, in all and by stage, and how many were not what they should be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

LEVELS = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Timing:
    """One request."""

    seconds: float
    error: str = ""
    """Why there was no answer; empty where there was one."""
    degraded: bool = False
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage."""


@dataclass(frozen=True, slots=True)
class Latency:
    """All requests of a run. Percentiles are milliseconds, failed requests included."""

    requests: int
    per_second: float
    percentiles: Mapping[str, float]
    """`p50`, `p95`, `p99` of whole requests, as the client saw them."""
    stages: Mapping[str, Mapping[str, float]]
    """The same by stage, as the gateway saw them."""
    errors: Mapping[str, int]
    """Number of failed requests by cause."""
    degraded: int

    def table(self) -> str:
        """For the screen."""
        rows = {"request": self.percentiles, **self.stages}
        width = max(len(name) for name in rows)
        lines = [f"{'ms'.ljust(width)}  " + "  ".join(f"{f'p{level}':>8}" for level in LEVELS)]
        lines += [
            f"{name.ljust(width)}  " + "  ".join(f"{row[f'p{level}']:8.2f}" for level in LEVELS)
            for name, row in rows.items()
        ]
        failed = sum(self.errors.values())
        summary = f"{self.requests} requests, {self.per_second:.0f}/s, {failed} failed, {self.degraded} degraded"
        causes = [f"  {count} × {cause}" for cause, count in self.errors.items()]
        return "\n".join([*lines, summary, *causes])


def latency_of(timings: Sequence[Timing], seconds: float) -> Latency:
    """Summarises requests that together took `seconds`."""
    by_stage: dict[str, list[float]] = defaultdict(list)
    for timing in timings:
        for name, taken in timing.stages.items():
            by_stage[name].append(taken)
    return Latency(
        len(timings),
        len(timings) / max(seconds, 1e-9),
        _percentiles([timing.seconds for timing in timings]),
        {name: _percentiles(taken) for name, taken in by_stage.items()},
        dict(Counter(timing.error for timing in timings if timing.error).most_common()),
        sum(timing.degraded for timing in timings),
    )


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    values = np.percentile(seconds, LEVELS) * 1e3 if seconds else np.zeros(len(LEVELS))
    return {f"p{level}": round(float(value), 3) for level, value in zip(LEVELS, values, strict=True)}
