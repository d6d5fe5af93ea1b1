"""What surrounds a call in a server, piece by piece: microseconds of CPU, without the network.

    python benchmarks/calls.py

Admission, request id and measurement of a call that does nothing; the line that it leaves in the log; computing on the
event loop and in a thread; the metrics of one request and of one call in the gateway. Medians of some rounds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import grpc

from gateway.pipeline.measure import observe_call, observe_stages
from gateway.pipeline.stages import StageReport, Status
from recsys.logs import flush_logs, write_logs
from recsys.server.calls import Calls
from recsys.server.compute import FIRST_GUESS_SECONDS, SHORT_SECONDS, Compute
from recsys.server.telemetry import Telemetry
from recsys.v1 import recall_pb2

ROUNDS, TIMES = 15, 2_000
REQUEST = recall_pb2.RecallRequest(request_id="0123456789abcdef" * 2)
RESPONSE = recall_pb2.RecallResponse(queue_microseconds=5, compute_microseconds=300)
STAGES = [
    *(StageReport(f"recall:{name}", Status.OK, 3_000, 0, 200) for name in ("popularity", "itemcf", "vector")),
    *(StageReport(name, Status.OK, 200, 300, 300) for name in ("merge", "filter")),
    StageReport("rank", Status.OK, 4_000, 200, 200),
]


async def cost(once: Callable[[], Awaitable[object]]) -> float:
    """Microseconds of CPU of the process that awaiting `once()` takes."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(TIMES):
            await once()
        rounds.append((time.process_time() - began) / TIMES * 1e6)
    return statistics.median(rounds)


async def cost_of_calls() -> float:
    """A call through `Calls`, less the same coroutine in a task of its own."""

    async def behavior(_request: Any, _context: Any) -> recall_pb2.RecallResponse:
        return RESPONSE

    class Service(grpc.GenericRpcHandler):
        def service(self, _details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(behavior)

    details: Any = SimpleNamespace(method="/recsys.v1.RecallService/Recall")
    service: Any = Calls(Telemetry.create()).surround(Service())
    metadata = (("user-agent", "grpc-python-asyncio/1.75.0"),)
    context = SimpleNamespace(time_remaining=lambda: 0.1, invocation_metadata=lambda: metadata)

    async def bare() -> None:
        await asyncio.create_task(behavior(REQUEST, context))

    async def ours() -> None:
        await asyncio.create_task(service.service(details).unary_unary(REQUEST, context))

    return await cost(ours) - await cost(bare)


async def cost_of_computing(queries: int) -> float:
    """`Compute.run` of work that takes no time."""
    compute = Compute(1, "rank", Telemetry.create())

    def run() -> Awaitable[object]:
        compute._query_seconds = FIRST_GUESS_SECONDS  # noqa: SLF001 - as if it took the time that was guessed
        return compute.run(lambda: None, queries=queries, remaining_seconds=0.1)

    found = await cost(run)
    compute.close()
    return found


@contextmanager
def logging_at(level: str) -> Iterator[None]:
    """Lines of the level are written, to where they cost nothing more."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    write_logs(level, "json")
    yield
    flush_logs()
    os.dup2(stderr, 2)
    logging.getLogger().handlers.clear()


async def main() -> None:
    """Measures and prints."""
    telemetry = Telemetry.create()

    async def stages() -> None:
        observe_stages(telemetry, STAGES)

    async def call() -> None:
        observe_call(telemetry, "rank", seconds=0.004, response=RESPONSE)

    with logging_at("WARNING"):
        quiet = await cost_of_calls()
    with logging_at("INFO"):
        logged = await cost_of_calls()
    long = round(SHORT_SECONDS / FIRST_GUESS_SECONDS) + 1
    for name, found in {
        "a call, without a line": quiet,
        "its line": logged - quiet,
        "computing on the event loop": await cost_of_computing(1),
        "computing in a thread": await cost_of_computing(long),
        "metrics of a request's six stages": await cost(stages),
        "metrics of a call to another process": await cost(call),
    }.items():
        print(f"{name:40}{found:6.1f} µs")


if __name__ == "__main__":
    asyncio.run(main())
