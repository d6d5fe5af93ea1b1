"""The race's open loop against small servers that answer, refuse, are slow, and answer something else."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from race.clients import Client, Sent, Wire
from race.http1 import http1_answer
from race.http2 import DATA, HEADERS, frame, frames, grpc_status, literal, without_request_id
from race.open_loop import Phase, Plan, perform, run, schedule
from race.servers import METHOD, Checkout, Setting

from recsys.v1.recommend_pb2 import RecommendedItem, RecommendRequest, RecommendResponse

DEADLINE = 1.0
SHUT_DOWN = threading.Event()
"""Ends the servers' slow answers."""
RIGHT, REFUSED, SLOW, OTHER = range(4)
"""Users, by what the servers below do for them."""
WANTED = {RIGHT: "ok", REFUSED: "refused", SLOW: "late", OTHER: "degraded"}


def answer_to(user_id: int) -> RecommendResponse:
    """What is served; the request id differs from answer to answer."""
    item = RecommendedItem(item_id=7 if user_id == OTHER else 8, score=0.5)
    return RecommendResponse(request_id=f"{time.perf_counter_ns()}", items=[item], degraded=user_id == OTHER)


def recommend(message: bytes, context: grpc.ServicerContext) -> bytes:
    user_id = RecommendRequest.FromString(message).user_id
    if user_id == REFUSED:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
    if user_id == SLOW:
        SHUT_DOWN.wait(10 * DEADLINE)
    return answer_to(user_id).SerializeToString()


@contextmanager
def grpc_server() -> Iterator[str]:
    """HOST:PORT of a server of gRPC."""
    service, method = METHOD.strip("/").split("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(recommend)})
    server = grpc.server(ThreadPoolExecutor(64), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    SHUT_DOWN.set()
    server.stop(None).wait()


class Handler(BaseHTTPRequestHandler):
    """Answers with the number at the end of the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        user_id = int(self.path.rpartition("=")[2])
        if user_id == SLOW:
            SHUT_DOWN.wait(10 * DEADLINE)
        body = b"other" if user_id == OTHER else b"right"
        self.send_response(503 if user_id == REFUSED else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Quiet(ThreadingHTTPServer):
    """Accepts many connections at once, and says nothing of callers that have gone."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def http_server() -> Iterator[str]:
    """HOST:PORT of a server of HTTP/1.1."""
    with Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        SHUT_DOWN.set()
        server.shutdown()
        thread.join()


def grpc_wires(address: str, setting: Setting) -> list[Wire]:
    """As the race sends them, one per kind of user."""
    checkout = Checkout("ours", setting)
    checkout._addresses = itertools.cycle([address])
    right = without_request_id(answer_to(RIGHT).SerializeToString())
    targets = [checkout.target(user_id) for user_id in WANTED]
    return [Wire(target.path, target.headers, target.body, right) for target in targets]


@pytest.mark.parametrize("is_grpc", [True, False])
def test_every_request_ends_as_it_did(is_grpc: bool, tmp_path: Path) -> None:
    SHUT_DOWN.clear()
    with (grpc_server if is_grpc else http_server)() as address:
        wires = (
            grpc_wires(address, Setting(tmp_path, tmp_path))
            if is_grpc
            else [Wire(f"/recommend?user_id={user_id}", {}, b"", b"right") for user_id in WANTED]
        )
        plan = Plan(address, is_grpc, wires, [Phase(100, 0.4)], DEADLINE)
        result = perform(plan)
    wanted = Counter(WANTED[request.user] for request in plan.requests())
    assert Counter(result.outcome) == wanted
    assert set(wanted) == set(WANTED.values())
    for latency, outcome in zip(result.latency, result.outcome, strict=True):
        assert latency >= DEADLINE if outcome == "late" else 0 < latency <= DEADLINE


def test_latency_counts_from_when_a_request_was_due() -> None:
    """A client that takes its time delays the request behind: that one's latency says so."""

    class Slow(Client):
        """Answers at once, but sends for 50 ms."""

        def __init__(self) -> None:
            self.sent: list[Sent] = []

        def send(self, request: Sent) -> None:
            time.sleep(0.05)
            self.sent.append(request)

        def wait(self, seconds: float) -> list[Sent]:
            del seconds
            ended, self.sent = self.sent, []
            for request in ended:
                request.outcome = "ok"
            return ended

        def give_up(self, request: Sent) -> None:
            raise AssertionError(request)

    requests = [Sent(0.0, 0), Sent(0.001, 0)]
    run(Slow(), requests, deadline=10.0)
    assert requests[0].latency >= 0.05
    assert requests[1].latency >= 0.099


def test_a_schedule_has_its_rates_and_is_the_same_again() -> None:
    phases = [Phase(1_000, 1.0), Phase(4_000, 1.0), Phase(500, 2.0)]
    due = schedule(phases, seed=3)
    assert due == sorted(due) == schedule(phases, seed=3) != schedule(phases, seed=4)
    counts = [sum(start <= moment < end for moment in due) for start, end in ((0, 1), (1, 2), (2, 4))]
    assert counts == pytest.approx([1_000, 4_000, 1_000], rel=0.15)
    assert due[-1] < 4.0


def test_frames_are_read_as_they_arrive() -> None:
    whole = frame(HEADERS, 4, 1, b"abc") + frame(DATA, 1, 3, b"")
    buffer = bytearray()
    found = []
    for byte in whole:
        buffer.append(byte)
        found += list(frames(buffer))
    assert found == [(HEADERS, 4, 1, b"abc"), (DATA, 1, 3, b"")]
    assert not buffer


def test_trailers_tell_the_status() -> None:
    block = literal("content-type", "application/grpc") + literal("grpc-status", "14") + literal("grpc-message", "no")
    assert grpc_status(block) == 14
    assert grpc_status(literal("grpc-message", "no")) is None


def test_an_http_answer_is_complete_with_its_last_byte() -> None:
    text = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
    assert [http1_answer(text[:n]) for n in (10, len(text) - 1)] == [None, None]
    assert http1_answer(text) == (200, b"abc")


def test_only_the_request_id_is_left_out() -> None:
    message = RecommendResponse(request_id="a" * 32, bundle_version="v")
    assert without_request_id(message.SerializeToString()) == RecommendResponse(bundle_version="v").SerializeToString()
    message.ClearField("request_id")
    assert without_request_id(message.SerializeToString()) == message.SerializeToString()
