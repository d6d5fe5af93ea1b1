"""Callers that ask for too much, hold what they do not use, or send what nobody can read."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recsys.v1.rank_pb2 import RankRequest
from recsys.v1.rank_pb2_grpc import RankServiceStub
from recsys.v1.recall_pb2 import RecallQuery, RecallRequest
from recsys.v1.recall_pb2_grpc import RecallServiceStub
from recsys.v1.recommend_pb2 import RecommendRequest
from tests.faults import flood, wire
from tests.faults.contract import Allowed, Broken, Fault
from tests.faults.load import BATCH, views
from tests.faults.system import System, wait_gone
from tests.waiting import eventually

SOME = Allowed(memory=1.5)
FLOOD = Allowed(outage_seconds=60, late=True, recovery_seconds=2)
DRAIN = Allowed(outage_seconds=4, late=True)
GOODPUT = 0.9
TIMES = 4
_RISING = (200.0, 400.0, 600.0, 800.0, 1000.0, 1300.0)
_PATH = "/recsys.v1.RecommendationService/RecordEvents"
_IDLE, _HALF, _HALF_BYTES, _ANNOUNCED = 2_000, 400, 900_000, 1_000_000
_BIG_USER_EVENTS = 100_000
_UNREADABLE, _HANG_SECONDS, _DRAIN_SECONDS = 200, 5.0, 3.0


@contextmanager
def _flood(system: System, seconds: float) -> Iterator[None]:
    each = max(1.0, seconds / 8)
    best = max(answers.goodput for answers in flood.send(system, _RISING, each))
    (flooded,) = flood.send(system, [TIMES * best], seconds)
    yield
    if flooded.goodput < GOODPUT * best:
        found = f"{flooded.goodput:.0f} good answers/s at {flooded.rate:.0f}/s, {best:.0f} at best"
        raise Broken(f"{found}: {flooded.outcomes}")
    if flooded.outcomes.get("failed"):
        raise Broken(f"answers other than refusals: {flooded.outcomes}")


@contextmanager
def _big_user(system: System, seconds: float) -> Iterator[None]:
    """One user records very much, and asks all the time."""
    ended = threading.Event()

    def ask() -> None:
        with system.stub() as stub:
            while not ended.wait(0.1):
                with _refusals_ignored():
                    stub.Recommend(RecommendRequest(user_key="big"), timeout=5)

    asking = threading.Thread(target=ask)
    with system.stub() as stub:
        total = _BIG_USER_EVENTS if seconds > 5 else _BIG_USER_EVENTS // 10
        for first in range(0, total, BATCH):
            stub.RecordEvents(views(system, "big", first), timeout=30)
    asking.start()
    yield
    ended.set()
    asking.join()


@contextmanager
def _refusals_ignored() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError:
        return


@contextmanager
def _idle(system: System, seconds: float) -> Iterator[None]:
    with wire.connections(system.target, _IDLE):
        yield


@contextmanager
def _half_sent(system: System, seconds: float) -> Iterator[None]:
    with wire.connections(system.target, _HALF) as opened:
        wire.send_halves(opened, _PATH, announced=_ANNOUNCED, sent=_HALF_BYTES, seconds=seconds)
        yield


@contextmanager
def _unreadable(system: System, seconds: float) -> Iterator[None]:
    """Bytes that are no message, to every method of the gateway."""
    codes: Counter[str] = Counter()
    with grpc.insecure_channel(system.target) as channel:
        for method in ("Recommend", "SimilarItems", "RecordEvents"):
            call = channel.unary_unary(f"/recsys.v1.RecommendationService/{method}")
            codes.update(_code(call, bytes([255]) * (1 + number)) for number in range(_UNREADABLE))
    yield
    if set(codes) != {"INVALID_ARGUMENT"}:
        raise Broken(f"undecodable bytes are answered with {dict(codes)}")


def _code(call: grpc.UnaryUnaryMultiCallable, message: object) -> str:
    try:
        call(message, timeout=_HANG_SECONDS)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@contextmanager
def _strange_ids(system: System, seconds: float) -> Iterator[None]:
    """Request ids that gRPC cannot send back as metadata must not make a call that never ends."""
    codes: Counter[str] = Counter()
    for text in ("ключ", "a\nb", "\x00", "x" * 10_000):
        with grpc.insecure_channel(system.ports.target(system.channels[0])) as channel:
            queries = [RecallQuery(count=5, as_of=1)]
            codes[_code(RecallServiceStub(channel).Recall, RecallRequest(queries=queries, request_id=text))] += 1
        with grpc.insecure_channel(system.ports.target("rank")) as channel:
            codes[_code(RankServiceStub(channel).Rank, RankRequest(request_id=text))] += 1
    yield
    if not set(codes) <= {"OK", "INVALID_ARGUMENT"}:
        raise Broken(f"calls with strange request ids end with {dict(codes)}")


@contextmanager
def _watch_while_draining(system: System, seconds: float) -> Iterator[None]:
    gateway = system.servers()["gateway"]
    with grpc.insecure_channel(system.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        next(watch)
        gateway.terminate()
        drained = wait_gone(gateway)
        watch.cancel()
    yield
    eventually(lambda: system.servers().get("gateway", gateway) != gateway, "the gateway is started again", seconds=60)
    if drained > _DRAIN_SECONDS:
        raise Broken(f"an open Health.Watch held the drain for {drained:.1f} s, expected {_DRAIN_SECONDS:g} s at most")


FAULTS = (
    Fault("flood", f"{TIMES} times as many requests as can be answered", _flood, FLOOD, hold=False),
    Fault("big-user", f"one user records {_BIG_USER_EVENTS:,} events, and asks all the time", _big_user),
    Fault("idle-connections", f"{_IDLE:,} connections on which nothing is sent", _idle, SOME),
    Fault("half-sent", f"{_HALF} messages that end after {_HALF_BYTES:,} bytes of {_ANNOUNCED:,}", _half_sent, SOME),
    Fault("unreadable", "bytes that are no message", _unreadable, hold=False),
    Fault("strange-ids", "request ids that are not printable ASCII", _strange_ids, hold=False),
    Fault("watch-draining", "the gateway ends while its health is watched", _watch_while_draining, DRAIN, hold=False),
)
