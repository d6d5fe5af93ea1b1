"""An open loop: requests leave when they are due, whatever the server does; a process of its own, on one thread.

    python -m race.open_loop < plan.json > result.json

Latency counts from the moment at which a request was due, not from when it was sent (Tene, "How NOT to measure
latency", 2013). A caller gives up at its deadline: it resets the stream, or closes the connection. Every body is
compared with the one that is expected, so what is counted is complete and right.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass

from race.clients import DEGRADED, LATE, OK, Client, Sent, Wire
from race.http1 import HTTP1Client
from race.http2 import GrpcClient


@dataclass(frozen=True, slots=True)
class Phase:
    """A rate for a while."""

    rate: float
    """Requests per second on average."""
    seconds: float


def schedule(phases: Sequence[Phase], seed: int) -> list[float]:
    """Seconds from the start at which requests are due: arrivals of a Poisson process, ascending."""
    rng, due, start = random.Random(seed), [], 0.0
    for phase in phases:
        moment = start + rng.expovariate(phase.rate)
        while moment < start + phase.seconds:
            due.append(moment)
            moment += rng.expovariate(phase.rate)
        start += phase.seconds
    return due


def run(client: Client, requests: Sequence[Sent], deadline: float) -> None:
    """Sends every request when it is due; returns when all have ended, or were given up after `deadline` seconds."""
    start = time.perf_counter()
    under_way: deque[Sent] = deque()
    upcoming = deque(requests)
    while upcoming or under_way:
        now = time.perf_counter() - start
        while upcoming and upcoming[0].due <= now:
            request = upcoming.popleft()
            request.sent = now
            under_way.append(request)
            client.send(request)
            now = time.perf_counter() - start
        while under_way and (under_way[0].outcome or under_way[0].due + deadline <= now):
            request = under_way.popleft()
            if not request.outcome:
                request.outcome, request.latency = LATE, now - request.due
                client.give_up(request)
        moments = ([upcoming[0].due] if upcoming else []) + ([under_way[0].due + deadline] if under_way else [])
        ended = client.wait(min(moments) - now) if moments else []
        now = time.perf_counter() - start
        for request in ended:
            request.latency = now - request.due
            if request.latency > deadline and request.outcome in (OK, DEGRADED):
                request.outcome = LATE


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run sends."""

    address: str
    grpc: bool
    wires: Sequence[Wire]
    phases: Sequence[Phase]
    deadline: float
    seed: int = 1

    def requests(self) -> list[Sent]:
        """Users in random order at the moments of the schedule."""
        rng = random.Random(self.seed + 1)
        return [Sent(due, rng.randrange(len(self.wires))) for due in schedule(self.phases, self.seed)]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a plan: parallel lists, one entry per request, in order of time."""

    due: list[float]
    latency: list[float]
    outcome: list[str]
    lag: float
    """Seconds by which a request was sent later than it was due, at the 99th percentile: the generator's own limit."""
    client_cpu: float
    """CPU seconds of this process per request."""


def perform(plan: Plan) -> Result:
    """Runs a plan."""
    requests, cpu = plan.requests(), time.process_time()
    with closing((GrpcClient if plan.grpc else HTTP1Client)(plan.address, plan.wires)) as client:
        run(client, requests, plan.deadline)
    lags = sorted(request.sent - request.due for request in requests)
    return Result(
        [request.due for request in requests],
        [request.latency for request in requests],
        [request.outcome for request in requests],
        lags[int(0.99 * (len(lags) - 1))],
        (time.process_time() - cpu) / len(requests),
    )


def main() -> None:
    """Reads a plan and writes its result; bodies are in hexadecimal digits."""
    with suppress(PermissionError):
        os.nice(-10)  # it stands for callers that have processors of their own
    gc.disable()
    text = json.load(sys.stdin)
    wires = [
        Wire(wire["path"], wire["headers"], bytes.fromhex(wire["body"]), bytes.fromhex(wire["expected"]))
        for wire in text["wires"]
    ]
    phases = [Phase(**phase) for phase in text["phases"]]
    result = perform(Plan(text["address"], text["grpc"], wires, phases, text["deadline"], text["seed"]))
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
