"""What one hop between two processes costs: microseconds of CPU of server and client per batch of queries.

    python benchmarks/hops.py [--batches 1 8 16] [--in-flight 2] [--rounds 25] [--calls 400] [--asyncio]

A server in a process of its own answers batches of realistic size at once, without computing. It is asked by `call`,
one gRPC call per batch; by `our call`, the same through `recsys.server.calls`; and over one bidirectional `stream`.
They take turns, so what else the machine does falls on all; of each the cheapest round is printed. Compare within one
run only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import uvloop
from grpc import aio

from recsys.server.calls import Calls
from recsys.server.telemetry import Telemetry
from recsys.v1 import recall_pb2

METHOD = "/recsys.v1.RecallService/Recall"
WAYS = ("call", "our call", "stream")
EVENTS, RESULTS = 50, 200
"""Events in a query's history, and candidates in its answer."""

Ask = Callable[[recall_pb2.RecallRequest], Awaitable[recall_pb2.RecallResponse]]


def request_of(batch: int) -> recall_pb2.RecallRequest:
    """A batch of queries."""
    query = recall_pb2.RecallQuery(as_of=1_700_000_000, count=RESULTS, request_id="0" * 32)
    query.history.packed_item_ids = query.history.packed_timestamps = np.arange(EVENTS, dtype="<i8").tobytes()
    return recall_pb2.RecallRequest(bundle_version="20260101-000000-000000000000", queries=[query] * batch)


def answer_of(batch: int) -> recall_pb2.RecallResponse:
    """An answer to it."""
    result = recall_pb2.RecallResult(
        packed_item_ids=np.arange(RESULTS, dtype="<i8").tobytes(), packed_scores=np.ones(RESULTS, "<f4").tobytes()
    )
    return recall_pb2.RecallResponse(channel="vector", results=[result] * batch)


async def _answer(request: recall_pb2.RecallRequest, _context: Any) -> recall_pb2.RecallResponse:
    return answer_of(len(request.queries))


async def _answers(
    requests: AsyncIterator[recall_pb2.RecallRequest], _context: Any
) -> AsyncIterator[recall_pb2.RecallResponse]:
    async for request in requests:
        yield answer_of(len(request.queries))


class Handler(grpc.GenericRpcHandler):
    """Answers one method, by call or over a stream."""

    def __init__(self, way: str) -> None:
        stream = way == "stream"
        make = grpc.stream_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler
        self._handler = make(
            _answers if stream else _answer,
            request_deserializer=recall_pb2.RecallRequest.FromString,
            response_serializer=recall_pb2.RecallResponse.SerializeToString,
        )

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler of the method."""
        return self._handler if details.method == METHOD else None


async def serve(way: str) -> None:
    """Prints its port, and serves until standard input closes."""
    server, handler = aio.server(), Handler(way)
    server.add_generic_rpc_handlers([Calls(Telemetry.create()).surround(handler) if way == "our call" else handler])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


@contextmanager
def served(way: str, *, loop: ModuleType) -> Iterator[tuple[int, int]]:
    """Process id and port of a server."""
    command = [sys.executable, __file__, "--serve", way, *(["--asyncio"] if loop is asyncio else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.stdin.close()


@asynccontextmanager
async def asking(channel: aio.Channel, way: str) -> AsyncIterator[Ask]:
    """The function that sends a batch and awaits its answer."""
    codec = {
        "request_serializer": recall_pb2.RecallRequest.SerializeToString,
        "response_deserializer": recall_pb2.RecallResponse.FromString,
    }
    if way != "stream":
        call: Any = channel.unary_unary(METHOD, **codec)
        yield lambda request: call(request, timeout=1.0)
        return
    stream: Any = channel.stream_stream(METHOD, **codec)()
    waiting: asyncio.Queue[asyncio.Future[recall_pb2.RecallResponse]] = asyncio.Queue()
    writing = asyncio.Lock()

    async def read() -> None:
        while True:
            answer = await stream.read()
            waiting.get_nowait().set_result(answer)

    async def ask(request: recall_pb2.RecallRequest) -> recall_pb2.RecallResponse:
        future = asyncio.get_running_loop().create_future()
        async with writing:
            waiting.put_nowait(future)
            await stream.write(request)
        return await future

    reading = asyncio.create_task(read())
    yield ask
    reading.cancel()
    stream.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading


async def load(port: int, way: str, batch: int, in_flight: int, calls: int) -> None:
    """Sends `calls` batches, `in_flight` at a time."""
    request, left = request_of(batch), iter(range(calls))
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel, asking(channel, way) as ask:

        async def one_after_the_other() -> None:
            for _ in left:
                assert len((await ask(request)).results) == batch

        await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))


def cpu_of_server(pid: int) -> float:
    """Seconds of CPU of all threads of a process, from the clock that Linux keeps of it (clock_getcpuclockid)."""
    return time.clock_gettime((~pid << 3) | 2)


def cpu_of_client() -> float:
    """Seconds of CPU of all threads of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def loop_of(options: argparse.Namespace) -> ModuleType:
    """The module whose event loop runs."""
    return asyncio if options.asyncio else uvloop


def measure(options: argparse.Namespace) -> dict[tuple[int, int, str], tuple[float, float]]:
    """By batch size, calls in flight and way: least microseconds of CPU per batch in the server and in the client."""
    found: dict[tuple[int, int, str], list[tuple[float, float]]] = {}
    loop = loop_of(options)
    with ExitStack() as stack:
        servers = {way: stack.enter_context(served(way, loop=loop)) for way in WAYS}
        for _ in range(options.rounds):
            for batch, in_flight, way in itertools.product(options.batches, options.in_flight, WAYS):
                pid, port = servers[way]
                before = cpu_of_server(pid), cpu_of_client()
                loop.run(load(port, way, batch, in_flight, options.calls))
                used = cpu_of_server(pid) - before[0], cpu_of_client() - before[1]
                found.setdefault((batch, in_flight, way), []).append(used)
    scale = 1e6 / options.calls
    return {
        key: (min(row[0] for row in rows) * scale, min(row[1] for row in rows) * scale) for key, rows in found.items()
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--in-flight", nargs="+", type=int, default=[2])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--asyncio", action="store_true", help="with asyncio's event loop instead of uvloop's")
    options = parser.parse_args()
    if options.serve:
        loop_of(options).run(serve(options.serve))
        return
    print("batch  in flight  way        server  client   µs of CPU per batch")
    for (batch, in_flight, way), (server, client) in measure(options).items():
        print(f"{batch:5}  {in_flight:9}  {way:9}  {server:6.0f}  {client:6.0f}")


if __name__ == "__main__":
    main()
