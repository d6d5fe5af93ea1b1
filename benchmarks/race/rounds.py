"""What is measured of one server in one round."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from race import closed_loop
from race.clients import DEGRADED, FAILED, LATE, OK
from race.figures import percentile
from race.open_loop import Phase
from race.processes import cpu_seconds
from race.results import LACKING, Closed, Open, Overload
from race.servers import BENCHMARKS, Server

OVERLOAD = 4.0
"""Times what the server can do."""
CALM = 0.5
"""The same, before and after the overload."""
OVERLOAD_SECONDS = 4.0
"""Of each of the three."""


def closed(server: Server, user_ids: Sequence[int], *, in_flight: int, seconds: float) -> Closed:
    """Loads one server."""
    targets, before = [server.target(user_id) for user_id in user_ids], server.outcomes()
    with _cpu(server) as cpu:
        done = closed_loop.run(targets, in_flight=in_flight, seconds=seconds)
    shares, counted = counted_of(done, server.outcomes() - before, server.setting.deadline_seconds)
    if not done.microseconds:
        raise RuntimeError(f"{server.name}: nothing was answered, {done.failed} requests failed")
    return Closed(
        counted / seconds,
        percentile(done.microseconds, 0.5) / 1e3,
        percentile(done.microseconds, 0.99) / 1e3,
        {name: taken / max(1, counted) * 1e3 for name, taken in cpu.items()},
        shares,
    )


def counted_of(done: closed_loop.Done, outcomes: Counter[str], deadline_seconds: float) -> tuple[dict[str, float], int]:
    """Shares of requests that do not count, and how many do. Of late ones, none is taken to be degraded as well."""
    late = sum(taken > deadline_seconds * 1e6 for taken in done.microseconds)
    lacking = {name: outcomes[name] for name in LACKING}
    lacking[LATE] = max(late, lacking[LATE])
    lacking[FAILED] += done.failed
    requests = len(done.microseconds) + done.failed
    shares = {name: number / max(1, requests) for name, number in lacking.items()}
    return shares, max(0, requests - sum(lacking.values()))


def opened(server: Server, bodies: Mapping[int, bytes], phase: Phase, *, deadline: float, seed: int) -> Open:
    """Sends at a steady rate. `bodies`: the right one by user, as `Server.body` returns it."""
    with _cpu(server) as cpu:
        result = _generate(server, bodies, [phase], deadline=deadline, seed=seed)
    milliseconds = [latency * 1e3 for latency in result["latency"]]
    ended = Counter(result["outcome"])
    return Open(
        phase.rate,
        ended[OK] / phase.seconds,
        percentile(milliseconds, 0.5),
        percentile(milliseconds, 0.99),
        {name: taken / max(1, ended[OK]) * 1e3 for name, taken in cpu.items()},
        shares_of(result["outcome"]),
        result["lag"] * 1e3,
        result["client_cpu"] * 1e3,
    )


def overloaded(server: Server, bodies: Mapping[int, bytes], *, capacity: float, deadline: float, seed: int) -> Overload:
    """Calm, `OVERLOAD` times the capacity, and calm again."""
    seconds = OVERLOAD_SECONDS
    calm = Phase(CALM * capacity, seconds)
    phases = [calm, Phase(OVERLOAD * capacity, seconds), calm]
    result = _generate(server, bodies, phases, deadline=deadline, seed=seed)
    start, end = seconds, 2 * seconds
    rows = list(zip(result["due"], result["latency"], result["outcome"], strict=True))
    during = [(latency, outcome) for due, latency, outcome in rows if start <= due < end]
    outcomes = [outcome for _, outcome in during]
    return Overload(
        OVERLOAD * capacity,
        outcomes.count(OK) / seconds,
        not_refused_p99(during) * 1e3,
        shares_of(outcomes),
        recovery([(due, outcome) for due, _, outcome in rows], end),
        result["lag"] * 1e3,
        result["client_cpu"] * 1e3,
    )


def shares_of(outcomes: Sequence[str]) -> dict[str, float]:
    """Of all requests, those that do not count, by `LACKING`."""
    ended = Counter(outcomes)
    return {name: ended[name] / max(1, len(outcomes)) for name in LACKING}


def not_refused_p99(rows: Sequence[tuple[float, str]]) -> float:
    """Of (latency, outcome): the 99th percentile of what was answered, or given up as late; nan where nothing was."""
    taken = [latency for latency, outcome in rows if outcome in (OK, DEGRADED, LATE)]
    return percentile(taken, 0.99) if taken else float("nan")


def recovery(rows: Sequence[tuple[float, str]], end: float) -> float:
    """Seconds from `end` to the last request due after it that does not count; 0 where all count."""
    return max((due - end for due, outcome in rows if due >= end and outcome != OK), default=0.0)


@contextmanager
def _cpu(server: Server) -> Iterator[dict[str, float]]:
    """CPU seconds by part of a server, filled in at the end."""
    spent: dict[str, float] = {}
    before = cpu_seconds(server.parts)
    yield spent
    spent.update({name: after - before[name] for name, after in cpu_seconds(server.parts).items()})


def _generate(
    server: Server, bodies: Mapping[int, bytes], phases: Sequence[Phase], *, deadline: float, seed: int
) -> dict[str, Any]:
    """Runs the generator in a process of its own."""
    targets = {user_id: server.target(user_id) for user_id in bodies}
    first = next(iter(targets.values()))
    plan = {
        "address": first.address,
        "grpc": first.grpc,
        "wires": [
            {
                "path": target.path,
                "headers": {**target.headers, **({"grpc-timeout": f"{round(deadline * 1e3)}m"} if target.grpc else {})},
                "body": target.body.hex(),
                "expected": bodies[user_id].hex(),
            }
            for user_id, target in targets.items()
        ],
        "phases": [{"rate": phase.rate, "seconds": phase.seconds} for phase in phases],
        "deadline": deadline,
        "seed": seed,
    }
    done = subprocess.run(
        [sys.executable, "-S", "-m", "race.open_loop"],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=False,
        cwd=BENCHMARKS,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator ended with {done.returncode}: {done.stderr[-800:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
