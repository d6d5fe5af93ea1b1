"""The harness of every process: health, reflection, ports, an orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from recsys.config import ServerConfig
from recsys.errors import CannotStart
from recsys.server.server import Process, Server, Service, run, serve
from recsys.server.telemetry import Telemetry
from recsys.v1 import recall_pb2, recall_pb2_grpc
from tests.recsys.answering import NAME, Recall, Running, service_of
from tests.waiting import PATIENCE_SECONDS, soon


async def test_health_is_not_serving_until_it_is_set_per_service(running: Running) -> None:
    kind = health_pb2.HealthCheckResponse
    assert [await running.health(), await running.health(NAME)] == [kind.NOT_SERVING] * 2
    await running.server.set_serving(serving=True)
    assert [await running.health(), await running.health(NAME)] == [kind.SERVING] * 2


@pytest.mark.parametrize(
    "symbol", [NAME, f"{NAME}.Recall", "recsys.v1.RecallQuery", "recsys.v1.RecommendationService.Recommend"]
)
async def test_reflection_resolves_services_messages_and_methods(running: Running, symbol: str) -> None:
    from recsys.v1 import recommend_pb2  # noqa: F401 - loads the descriptors

    answer = await reflected(running, reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(text)
        for text in answer.file_descriptor_response.file_descriptor_proto
    ]
    defined = {f"{file.package}.{thing.name}" for file in files for thing in (*file.service, *file.message_type)}
    assert symbol in defined or symbol.rpartition(".")[0] in defined


async def test_reflection_lists_services_and_says_not_found(running: Running) -> None:
    answer = await reflected(running, reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = [service.name for service in answer.list_services_response.service]
    assert listed == ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", NAME]
    for symbol in (f"{NAME}.Nothing", "nothing"):
        answer = await reflected(running, reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def reflected(
    running: Running, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    async for answer in stub.ServerReflectionInfo(iter([request])):
        return answer
    raise AssertionError("no answer")


def taken_port() -> socket.socket:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken


async def test_a_taken_port_is_named(running: Running) -> None:
    with taken_port() as taken:
        config = ServerConfig(port=taken.getsockname()[1])
        with pytest.raises(CannotStart, match=f"port 127.0.0.1:{config.port}: in use"):
            Server(config, Telemetry.create(), []).bind()


async def test_a_second_server_on_one_port_is_refused() -> None:
    alone = Server(ServerConfig(), Telemetry.create(), [])
    with pytest.raises(CannotStart):
        Server(ServerConfig(port=alone.bind()), Telemetry.create(), []).bind()


def listening_on(port: int) -> int:
    """How many sockets listen on a port."""
    tables = (Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    lines = (line.split() for table in tables for line in table)
    return sum(state == "0A" and address.endswith(f":{port:04X}") for _, address, _, state, *_ in lines)


async def test_calls_are_taken_up_by_several_listeners_at_a_time() -> None:
    """Each of them takes up one call after another, so one alone is the narrowest place under overload."""
    server = Server(ServerConfig(), Telemetry.create(), [])
    port = server.bind()
    await server.start()
    listeners, answers = listening_on(port), [await answers_at(port) for _ in range(32)]
    await server.drain(0)
    assert listeners > 1
    assert all(answers)
    assert not await answers_at(port)


async def answers_at(port: int) -> bool:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        except aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - so it is nobody, not an error
            return False
    return True


async def test_servers_share_a_port_each_from_when_it_can_serve() -> None:
    with taken_port() as free:
        port = free.getsockname()[1]
    first, second = (Server(ServerConfig(shared_port=port), Telemetry.create(), []) for _ in range(2))
    own = [server.bind() for server in (first, second)]
    for server in (first, second):
        await server.start()
    assert [await answers_at(each) for each in (port, *own)] == [False, True, True]
    for server in (first, second, first):
        await server.set_serving(serving=True)
        assert await answers_at(port)
    for server, still in ((first, True), (second, False)):
        await server.drain(0)
        assert await answers_at(port) is still


async def test_a_port_that_cannot_be_shared_is_named_before_the_server_starts() -> None:
    with taken_port() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=f"port 127.0.0.1:{port}: in use.*set --shared-port"):
            Server(ServerConfig(shared_port=port), Telemetry.create(), []).bind()


async def test_a_process_ends_where_the_shared_port_is_taken_meanwhile() -> None:
    free = taken_port()
    port = free.getsockname()[1]
    free.close()
    ready: list[Callable[[bool], None]] = []

    async def build(config: ServerConfig, process: Process) -> list[Service]:
        ready.append(process.set_ready)
        return []

    serving = asyncio.create_task(serve(ServerConfig(shared_port=port), build))
    await soon(lambda: bool(ready), "it is built")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        ready[0](True)
        with pytest.raises(CannotStart, match="set --shared-port"):
            await serving


async def is_refused(stub: Any) -> bool:
    """Whether the server takes no calls any more; one that it took while it began to drain it may still cancel."""
    try:
        await stub.Status(recall_pb2.RecallServiceStatusRequest())
    except aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


async def test_a_drain_lets_calls_in_flight_finish_and_refuses_new_ones() -> None:
    servicer, stop, entered, leave, closed = Recall(), asyncio.Event(), asyncio.Event(), asyncio.Event(), []
    ports: list[int] = []

    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        entered.set()
        await leave.wait()
        return recall_pb2.RecallResponse(channel="finished")

    async def build(config: ServerConfig, process: Process) -> list[Service]:
        process.closing.callback(closed.append, "models")
        process.set_ready(True)
        return [service_of(servicer)]

    servicer.behavior = behavior
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        ports.append(probe.getsockname()[1])
    life = asyncio.create_task(serve(ServerConfig(port=ports[0], drain_seconds=60), build, stop=stop))
    async with aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
        stub = recall_pb2_grpc.RecallServiceStub(channel)
        call = asyncio.ensure_future(stub.Recall(recall_pb2.RecallRequest(), wait_for_ready=True))
        await asyncio.wait_for(entered.wait(), PATIENCE_SECONDS)
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stop.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await is_refused(stub):
                assert not call.done()
        leave.set()
        assert (await call).channel == "finished"
    await asyncio.wait_for(life, PATIENCE_SECONDS)
    assert closed == ["models"]


def test_a_process_that_cannot_start_says_so_in_one_line_and_exits_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def build(config: ServerConfig, process: Process) -> list[Service]:
        return []

    assert run("recall", ServerConfig, build, ["--nope", "1"]) == 2
    assert capsys.readouterr().err == "recall: unrecognized arguments: --nope 1; see --help\n"
    with taken_port() as taken:
        port = taken.getsockname()[1]
        assert run("recall", ServerConfig, build, ["--port", str(port), "--log-level", "ERROR"]) == 2
        assert capsys.readouterr().err.startswith(f"recall: port 127.0.0.1:{port}: in use")
        assert run("recall", ServerConfig, build, ["--metrics-port", str(port), "--log-level", "ERROR"]) == 2
        assert capsys.readouterr().err.startswith(f"recall: metrics port 127.0.0.1:{port}: Address already in use")
