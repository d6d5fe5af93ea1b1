"""What is measured of one server in one round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from race import closed_loop
from race.figures import percentile
from race.processes import cpu_seconds
from race.servers import Server


@dataclass(frozen=True, slots=True)
class Closed:
    """One closed loop."""

    per_second: float
    """Complete answers within the deadline, per second."""
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]
    """By process, CPU time per answer that counts."""
    shares: dict[str, float] = field(default_factory=dict)
    """Of all requests: `degraded`, `refused`, `failed`, `late`."""

    @property
    def cpu(self) -> float:
        """Milliseconds of all processes per answer that counts."""
        return sum(self.cpu_ms.values())


def closed(server: Server, user_ids: Sequence[int], *, in_flight: int, seconds: float) -> Closed:
    """Loads one server; raises RuntimeError where nothing was answered as it must be."""
    targets = [server.target(user_id) for user_id in user_ids]
    before, cpu_before = server.outcomes(), cpu_seconds(server.processes)
    latencies = closed_loop.run(targets, in_flight=in_flight, seconds=seconds)
    cpu_after, after = cpu_seconds(server.processes), server.outcomes()
    late = sum(taken > server.setting.deadline_seconds * 1e6 for taken in latencies)
    counted, shares = _counted(len(latencies), late, after - before)
    if not counted:
        raise RuntimeError(f"{server.name}: none of {len(latencies)} answers counts: {shares}")
    return Closed(
        counted / seconds,
        percentile(latencies, 0.5) / 1e3,
        percentile(latencies, 0.99) / 1e3,
        {name: (taken - cpu_before[name]) / counted * 1e3 for name, taken in cpu_after.items()},
        shares,
    )


def _counted(answers: int, late: int, outcomes: Counter[str]) -> tuple[int, dict[str, float]]:
    """How many answers count, and the shares of the others. None of the late ones is taken to be degraded as well."""
    lacking = {name: outcomes[name] for name in ("degraded", "refused", "failed")} | {"late": late}
    counted = max(0, answers - sum(lacking.values()))
    return counted, {name: number / max(1, answers) for name, number in lacking.items()}
