"""A steady load, an open loop: recommendations, and events whose ids are remembered once they are acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from recsys.v1 import types_pb2
from recsys.v1.recommend_pb2 import Event, RecommendRequest, RecordEventsRequest
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub
from tests.faults.system import System

RATE = 40.0
"""Recommend per second."""
EVENT_RATE = 8.0
"""RecordEvents per second."""
EVENTS_EACH = 3
BATCH = 1_000
"""Events of a full message."""
DEADLINE = 2.0
"""What a caller allows; a request without an answer by then has failed."""
LATE = 0.5
"""An answer that took longer is late: the gateway's budget, and the way there and back on a busy machine."""
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
)
LOOKED_AT = 10
"""Users whose next answer is asked for in the end: it must take their events into account."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One Recommend."""

    due: float
    """By `time.monotonic`."""
    latency: float
    error: str
    degraded: bool

    @property
    def is_late(self) -> bool:
        """An answer that took too long."""
        return not self.error and self.latency > LATE

    @property
    def is_good(self) -> bool:
        """A complete answer in time."""
        return not self.error and not self.degraded and not self.is_late


class Load:
    """Sends until `stop` is called; see `run`."""

    def __init__(self, system: System, *, rate: float = RATE, event_rate: float = EVENT_RATE) -> None:
        self._system = system
        self._rate, self._event_rate = rate, event_rate
        self._stopped = asyncio.Event()
        self._again: deque[RecordEventsRequest] = deque()
        self.samples: list[Sample] = []
        self.acknowledged: dict[str, tuple[float, Event]] = {}
        """When, and which event, by its id."""
        self.unacknowledged = 0

    def stop(self) -> None:
        """Ends the load: what is under way gets its answer."""
        self._stopped.set()

    async def run(self) -> None:
        """Both kinds of requests, each at its rate."""
        async with grpc.aio.insecure_channel(self._system.target, options=_OPTIONS) as channel:
            stub = RecommendationServiceStub(channel)
            requests = (self._system.request(number) for number in itertools.count())
            async with asyncio.TaskGroup() as group:
                group.create_task(self._paced(requests, self._rate, lambda one, due: self._recommend(stub, one, due)))
                group.create_task(
                    self._paced(self._batches(), self._event_rate, lambda one, due: self._record(stub, one))
                )

    async def _paced(
        self, requests: Iterator[Any], rate: float, send: Callable[[Any, float], Coroutine[Any, Any, None]]
    ) -> None:
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, request in enumerate(requests):
                due = start + number / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if self._stopped.is_set():
                    return
                group.create_task(send(request, due))

    async def _recommend(self, stub: RecommendationServiceStub, request: RecommendRequest, due: float) -> None:
        error, degraded = "", False
        try:
            answer = await stub.Recommend(request, timeout=DEADLINE)
            error, degraded = ("", answer.degraded) if answer is not None else ("DEADLINE_EXCEEDED", False)
        except grpc.aio.AioRpcError as failure:
            error = f"{failure.code().name}: {failure.details()}"
        self.samples.append(Sample(due, time.monotonic() - due, error, degraded))

    async def _record(self, stub: RecommendationServiceStub, request: RecordEventsRequest) -> None:
        try:
            await stub.RecordEvents(request, timeout=DEADLINE)
        except grpc.aio.AioRpcError:
            self.unacknowledged += 1
            self._again.append(request)
        else:
            now = time.monotonic()
            self.acknowledged |= {event.event_id: (now, event) for event in request.events}

    def _batches(self) -> Iterator[RecordEventsRequest]:
        """What was not acknowledged is sent again with the same ids, in turns with new events."""
        prefix = f"{time.time_ns():x}"
        for number in itertools.count():
            if self._again and number % 2:
                yield self._again.popleft()
            yield RecordEventsRequest(
                events=[
                    Event(
                        event_id=f"{prefix}-{number}-{k}",
                        user_key=f"caller-{prefix}-{number}",
                        item_id=self._system.items[(number + k) % len(self._system.items)],
                        type=types_pb2.EVENT_TYPE_RATING,
                        value=4.0,
                    )
                    for k in range(EVENTS_EACH)
                ]
            )

    def missing(self) -> tuple[int, int]:
        """How many acknowledged events are not in the file or not in the next answer; how many are there twice."""
        counted = [event for moment, event in self.acknowledged.values() if moment >= self._system.counted_from]
        lost, doubled = compare(self._system.events_file, {event.event_id for event in counted})
        return lost + self._unseen(counted[-LOOKED_AT * EVENTS_EACH :]), doubled

    def _unseen(self, recent: list[Event]) -> int:
        """Acknowledged events, of some users, whose items are recommended to those who rated them all the same."""
        unseen = 0
        with self._system.stub() as stub:
            for user in {event.user_key for event in recent}:
                answer = stub.Recommend(RecommendRequest(user_key=user, count=500), timeout=30, wait_for_ready=True)
                rated = {event.item_id for event in recent if event.user_key == user}
                unseen += len(rated & {item.item_id for item in answer.items})
        return unseen


def compare(file: Path, acknowledged: set[str]) -> tuple[int, int]:
    """How many of the acknowledged events the file does not hold, and how many events it holds more than once."""
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT event_id, count(*) FROM events GROUP BY user_key, event_id").fetchall()
    found = dict(rows)
    return len(acknowledged - found.keys()), sum(count - 1 for count in found.values())


def views(system: System, user: str, first: int) -> RecordEventsRequest:
    """A full message of events of one user, numbered from `first` on."""
    numbers, kind = range(first, first + BATCH), types_pb2.EVENT_TYPE_VIEW
    return RecordEventsRequest(
        events=[
            Event(event_id=f"{user}-{n}", user_key=user, item_id=system.items[n % len(system.items)], type=kind)
            for n in numbers
        ]
    )
