"""Load at a fixed rate, whatever the server does: latencies free of coordinated omission.

A closed loop waits for an answer before it sends the next request, so a server that stalls is asked less often just
when it is slow. Here request i is due at i / rate, and its latency counts from that moment (Tene, "How NOT to measure
latency", 2013).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from recsys.errors import Unreachable
from recsys.v1.recommend_pb2 import RecommendRequest, RecommendResponse
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub

_TIMER_SECONDS = 0.002
"""The last of a wait is spent awake."""


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """One request of a run."""

    due: float
    """Seconds since the start of the run at which the request was to be sent."""
    latency: float
    """Seconds from that moment to the answer, or to the error."""
    error: str
    """Status code and details; empty for an answer."""
    response: RecommendResponse | None


async def send_at_rate(
    target: str,
    requests: Iterable[RecommendRequest],
    *,
    rate: float,
    deadline_seconds: float = 2.0,
    ready_seconds: float = 30.0,
) -> list[TimedAnswer]:
    """Sends `requests` at `rate` per second to `target`; returns a sample per request, in order.

    A request is taken when the one before it has been sent, so `requests` may end the run when something has happened.

    Raises Unreachable where nothing listens at `target` for `ready_seconds`.
    """
    async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = RecommendationServiceStub(channel)
        try:
            await asyncio.wait_for(channel.channel_ready(), timeout=ready_seconds)
        except TimeoutError:
            raise Unreachable(
                f"{target}: not connected after {ready_seconds:g} s; check that a gateway listens there"
            ) from None
        start = time.perf_counter() + 0.05

        async def send(due: float, request: RecommendRequest) -> TimedAnswer:
            try:
                # grpc.aio may return None where the answer arrives just as the deadline passes
                response = await stub.Recommend(request, timeout=deadline_seconds)
                error = "" if response is not None else "DEADLINE_EXCEEDED: no answer"
            except grpc.aio.AioRpcError as failure:
                response, error = None, f"{failure.code().name}: {failure.details()}"
            return TimedAnswer(due, time.perf_counter() - start - due, error, response)

        async with asyncio.TaskGroup() as group:
            sent = []
            for number, request in enumerate(requests):
                due = number / rate
                await _until(start + due)
                sent.append(group.create_task(send(due, request)))
        return [task.result() for task in sent]


async def _until(moment: float) -> None:
    """Waits for a moment of `time.perf_counter`; the event loop's timers are late by up to a millisecond."""
    while (left := moment - time.perf_counter()) > 0:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(max(0.0, left - _TIMER_SECONDS))


def percentiles(samples: Sequence[TimedAnswer], levels: Sequence[float] = (50, 90, 95, 99, 100)) -> dict[str, float]:
    """Latency in milliseconds by percentile, errors included."""
    latencies = np.asarray([sample.latency for sample in samples]) * 1e3
    return {f"p{level:g}": round(float(np.percentile(latencies, level)), 2) for level in levels}


def stage_shares(samples: Sequence[TimedAnswer]) -> dict[str, float]:
    """Median microseconds of each stage over the answers that carry stages (`debug`)."""
    times: dict[str, list[int]] = {}
    for sample in samples:
        for stage in sample.response.stages if sample.response else ():
            times.setdefault(stage.name, []).append(stage.microseconds)
    return {name: float(np.median(values)) for name, values in times.items()}
