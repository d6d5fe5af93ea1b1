"""One message of the fuzz: which method it goes to, its bytes, and how the call ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from grpc import aio

from recsys.v1.recommend_pb2 import Event, RecordEventsRequest
from recsys.v1.types_pb2 import EVENT_TYPE_LIKE, EVENT_TYPE_VIEW
from tests.fuzz.messages import message_of, mutated
from tests.fuzz.ports import Method

HANG_SECONDS = 5.0
BAD = ("UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "DATA_LOSS")
"""How no call may end, whatever was sent. Without an answer for `HANG_SECONDS` it hangs."""
RECORD = "/recsys.v1.RecommendationService/RecordEvents"
_RANDOM_SHARE = 0.03
"""Of messages that are bytes without any sense."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A message."""

    number: int
    method: Method
    body: bytes

    @property
    def about(self) -> str:
        """For an error: where it went, and its beginning."""
        bytes_of = f"{self.body[:40].hex()} ({len(self.body)} bytes)"
        return f"message {self.number} to {self.method.role} {self.method.path}: {bytes_of}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended."""

    code: str
    details: str
    answer: bytes = b""


def message(methods: Sequence[Method], seed: int, number: int, known: Sequence[int]) -> Numbered:
    """The message with that number."""
    rng = random.Random(f"{seed}/{number}")
    method = rng.choice(methods)
    if method.path == RECORD and rng.random() < 0.5:
        return Numbered(number, method, _events(rng, seed, number, known).SerializeToString())
    if rng.random() < _RANDOM_SHARE:
        return Numbered(number, method, rng.randbytes(rng.choice((1, 2, 16, 1_000))))
    body = message_of(method.request, rng, known).SerializeToString()
    return Numbered(number, method, mutated(body, rng) if rng.random() < 0.6 else body)


def _events(rng: random.Random, seed: int, number: int, known: Sequence[int]) -> RecordEventsRequest:
    """Valid ones, some of which are there twice, or were sent before under the same id."""
    events = [
        Event(
            event_id=f"fuzz-{seed}-{number}-{k}",
            user_key=f"user-{rng.randrange(1_000)}",
            item_id=rng.choice(known),
            type=rng.choice((EVENT_TYPE_LIKE, EVENT_TYPE_VIEW)),
        )
        for k in range(rng.choice((1, 2, 20)))
    ]
    return RecordEventsRequest(events=[*events, *events[: rng.choice((0, 0, 1))]])


async def call(channel: aio.Channel, sent: Numbered) -> Ended:
    """Sends it as it is."""
    try:
        async with asyncio.timeout(2 * HANG_SECONDS):
            return Ended("OK", "", await _answer(channel, sent))
    except aio.AioRpcError as error:
        return Ended(error.code().name, error.details() or "")
    except TimeoutError:
        return Ended(grpc.StatusCode.DEADLINE_EXCEEDED.name, "the call did not end at its deadline")


async def _answer(channel: aio.Channel, sent: Numbered) -> bytes:
    method = sent.method
    if method.takes_stream:
        stream = channel.stream_stream(method.path)(iter([sent.body]), timeout=HANG_SECONDS)
        answers = [answer async for answer in stream]
        return answers[-1] if answers else b""
    if method.streams:
        call = channel.unary_stream(method.path)(sent.body, timeout=HANG_SECONDS)
        first = await call.read()
        if first is aio.EOF:
            return b""
        call.cancel()
        return bytes(first)
    return bytes(await channel.unary_unary(method.path)(sent.body, timeout=HANG_SECONDS) or b"")
