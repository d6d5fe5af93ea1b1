from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from recsys.calls import REQUEST_ID_KEY, Calls, after_answer, note, remaining_seconds
from recsys.config import ServerConfig
from recsys.errors import BundleMissing, CannotStart, ContractBroken, InvalidRequest, RecsysError
from recsys.logs import request_id_of_call, write_logs
from recsys.server import Process, Server, Service, run, serve
from recsys.telemetry import Telemetry
from recsys.v1 import recall_pb2, recall_pb2_grpc
from tests.waiting import PATIENCE_SECONDS, soon

NAME = "recsys.v1.RecallService"
Behavior = Callable[[recall_pb2.RecallRequest, Any], Awaitable[recall_pb2.RecallResponse]]


class Recall(recall_pb2_grpc.RecallServiceServicer):
    """Answers with the request id as the version, unless a test says otherwise."""

    behavior: Behavior | None = None

    async def Recall(  # noqa: N802
        self, request: recall_pb2.RecallRequest, context: Any
    ) -> recall_pb2.RecallResponse:
        if self.behavior is not None:
            return await self.behavior(request, context)
        return recall_pb2.RecallResponse(bundle_version=request.request_id)

    async def Status(  # noqa: N802
        self, request: Any, context: Any
    ) -> recall_pb2.RecallServiceStatusResponse:
        return recall_pb2.RecallServiceStatusResponse()


@dataclass
class Running:
    server: Server
    servicer: Recall
    telemetry: Telemetry
    channel: aio.Channel
    stub: Any

    def observed(self, method: str, code: str) -> float:
        labels = {"method": method, "code": code}
        return self.telemetry.registry.get_sample_value("recsys_rpc_seconds_count", labels) or 0.0

    async def health(self, service: str = "") -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await health_pb2_grpc.HealthStub(self.channel).Check(request)).status

    async def error(self, request: recall_pb2.RecallRequest | None = None, **call: Any) -> aio.AioRpcError:
        with pytest.raises(aio.AioRpcError) as caught:
            await self.stub.Recall(request or recall_pb2.RecallRequest(), **call)
        return caught.value


def service_of(servicer: Recall) -> Service:
    return Service(NAME, lambda server: recall_pb2_grpc.add_RecallServiceServicer_to_server(servicer, server))


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    servicer, telemetry = Recall(), Telemetry.create()
    config = ServerConfig(in_flight_limit=2, slow_call_seconds=5, max_message_mib=4)
    server = Server(config, telemetry, [service_of(servicer)])
    port = server.bind()
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Running(server, servicer, telemetry, channel, recall_pb2_grpc.RecallServiceStub(channel))
    await server.drain(0)


def raising(error: Exception) -> Behavior:
    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        raise error

    return behavior


async def test_health_is_not_serving_until_told_per_service(running: Running) -> None:
    kind = health_pb2.HealthCheckResponse
    assert [await running.health(), await running.health(NAME)] == [kind.NOT_SERVING] * 2
    await running.server.set_serving(serving=True)
    assert [await running.health(), await running.health(NAME)] == [kind.SERVING] * 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("queries[0].count: 0"), grpc.StatusCode.INVALID_ARGUMENT),
        (BundleMissing("holds v1"), grpc.StatusCode.FAILED_PRECONDITION),
        (ContractBroken("NaN"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_errors_of_the_tree_become_codes_with_their_message(
    running: Running, error: RecsysError, code: grpc.StatusCode
) -> None:
    running.servicer.behavior = raising(error)
    found = await running.error()
    assert (found.code(), found.details()) == (code, str(error))
    assert running.observed("RecallService/Recall", code.name) == 1


async def test_an_unexpected_error_is_told_by_request_id_and_traced_in_the_log_only(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.servicer.behavior = raising(ZeroDivisionError("secret detail"))
    found = await running.error(metadata=((REQUEST_ID_KEY, "r-17"),))
    assert found.code() is grpc.StatusCode.INTERNAL
    assert "r-17" in (found.details() or "")
    assert "secret" not in (found.details() or "")
    assert any(record.exc_info and "secret detail" in str(record.exc_info[1]) for record in caplog.records)


async def test_a_call_that_a_servicer_aborts_keeps_its_code(running: Running) -> None:
    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        await context.abort(grpc.StatusCode.NOT_FOUND, "nobody")

    running.servicer.behavior = behavior
    assert (await running.error()).code() is grpc.StatusCode.NOT_FOUND
    await soon(lambda: running.observed("RecallService/Recall", "NOT_FOUND") == 1, "the call is measured")


async def test_timeouts_are_measured_and_stop_the_work(running: Running) -> None:
    left: list[float | None] = []

    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        left.append(remaining_seconds(context))
        await asyncio.sleep(600)
        return recall_pb2.RecallResponse()

    running.servicer.behavior = behavior
    await running.health()
    assert (await running.error(timeout=1.0)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await soon(lambda: running.observed("RecallService/Recall", "DEADLINE_EXCEEDED") == 1, "the server has noticed")
    assert left[0] is not None
    assert 0 < left[0] <= 1.1, "gRPC rounds up what is left when it tells it"
    assert running.telemetry.registry.get_sample_value("recsys_rpc_in_flight") == 0


@pytest.mark.parametrize(
    ("given", "left", "code"),
    [
        (0.15, 0.075, "CANCELLED"),
        (0.15, 0.02, "CANCELLED"),
        (0.15, 0.01, "DEADLINE_EXCEEDED"),
        (0.15, -0.01, "DEADLINE_EXCEEDED"),
        (30.0, 0.2, "CANCELLED"),
        (30.0, 0.05, "DEADLINE_EXCEEDED"),
        (None, None, "CANCELLED"),
    ],
)
async def test_a_call_that_ends_early_was_cancelled_unless_it_had_had_nearly_all_of_its_time(
    given: float | None, left: float | None, code: str
) -> None:
    """The context is a fake, so that no clock runs: half of a short deadline is half of it on every machine."""
    remaining = [given]
    context: Any = SimpleNamespace(time_remaining=lambda: remaining[-1], invocation_metadata=tuple)

    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        remaining.append(left)
        raise asyncio.CancelledError

    async def handler(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(behavior)

    telemetry = Telemetry.create()
    details: Any = SimpleNamespace(method=f"/{NAME}/Recall")
    wrapped: Any = await Calls(telemetry).intercept_service(handler, details)
    with pytest.raises(asyncio.CancelledError):
        await wrapped.unary_unary(recall_pb2.RecallRequest(), context)
    await asyncio.sleep(0)  # a call is measured after its answer
    labels = {"method": "RecallService/Recall", "code": code}
    assert telemetry.registry.get_sample_value("recsys_rpc_seconds_count", labels) == 1


async def test_a_call_without_deadline_has_no_remaining_seconds(running: Running) -> None:
    left: list[float | None] = []

    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        left.append(remaining_seconds(context))
        return recall_pb2.RecallResponse()

    running.servicer.behavior = behavior
    await running.stub.Recall(recall_pb2.RecallRequest())
    assert left == [None]


async def test_calls_beyond_the_limit_are_refused_but_status_is_not(running: Running) -> None:
    release, both_entered, entered = asyncio.Event(), asyncio.Event(), 0

    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        nonlocal entered
        entered += 1
        if entered == 2:
            both_entered.set()
        await release.wait()
        return recall_pb2.RecallResponse(channel="admitted")

    running.servicer.behavior = behavior
    admitted = [asyncio.ensure_future(running.stub.Recall(recall_pb2.RecallRequest())) for _ in range(2)]
    await asyncio.wait_for(both_entered.wait(), PATIENCE_SECONDS)
    assert running.telemetry.registry.get_sample_value("recsys_rpc_in_flight") == 2
    refused = await running.error()
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 calls are in flight" in (refused.details() or "")
    await running.stub.Status(recall_pb2.RecallServiceStatusRequest())
    release.set()
    assert [answer.channel for answer in await asyncio.gather(*admitted)] == ["admitted"] * 2
    await running.stub.Recall(recall_pb2.RecallRequest())


async def test_oversized_messages_are_refused_with_both_sizes(running: Running) -> None:
    query = recall_pb2.RecallQuery(exclude_item_ids=[2**60] * 600_000)
    found = await running.error(recall_pb2.RecallRequest(queries=[query]))
    assert found.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (found.details() or "")
    assert "4194304" in (found.details() or "")


async def test_each_call_leaves_one_line_with_its_request_id_and_facts(
    running: Running, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        note(queries=3)
        return recall_pb2.RecallResponse()

    running.servicer.behavior = behavior
    write_logs("INFO", "json")
    await running.stub.Recall(recall_pb2.RecallRequest(request_id="from-message"))
    await running.stub.Recall(recall_pb2.RecallRequest(), metadata=((REQUEST_ID_KEY, "from-metadata"),))
    await running.stub.Recall(recall_pb2.RecallRequest())
    await running.stub.Status(recall_pb2.RecallServiceStatusRequest())
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    lines = [line for line in lines if line["logger"] == "recsys.calls"]
    assert [line["request_id"] for line in lines[:2]] == ["from-message", "from-metadata"]
    assert len(lines[2]["request_id"]) == 32
    assert len(lines) == 3
    expected = {"level": "INFO", "method": "RecallService/Recall", "code": "OK", "queries": 3}
    assert all({name: line[name] for name in expected} == expected for line in lines)


async def test_failed_calls_are_warnings(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.servicer.behavior = raising(InvalidRequest("count: 0"))
    await running.error()
    failed = [record for record in caplog.records if record.name == "recsys.calls"]
    assert [(record.levelno, record.getMessage()) for record in failed] == [(logging.WARNING, "count: 0")]


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
        with pytest.raises(CannotStart, match=f"port 127.0.0.1:{config.port}: taken"):
            Server(config, Telemetry.create(), []).bind()


async def test_a_second_server_on_one_port_is_refused_unless_workers_share_it() -> None:
    alone = Server(ServerConfig(), Telemetry.create(), [])
    with pytest.raises(CannotStart):
        Server(ServerConfig(port=alone.bind()), Telemetry.create(), []).bind()
    shared = Server(ServerConfig(workers=2), Telemetry.create(), [])
    port = shared.bind()
    assert Server(ServerConfig(port=port, workers=2), Telemetry.create(), []).bind() == port


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
        assert capsys.readouterr().err.startswith(f"recall: port 127.0.0.1:{port}: taken")
        assert run("recall", ServerConfig, build, ["--metrics-port", str(port), "--log-level", "ERROR"]) == 2
        assert capsys.readouterr().err.startswith(f"recall: metrics port 127.0.0.1:{port}: Address already in use")


async def test_what_is_left_for_after_the_answer_runs_after_it_and_alone(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        after_answer(lambda: done.append(f"{1 / 0}"))
        after_answer(lambda: done.append(request_id_of_call.get()))
        return recall_pb2.RecallResponse(channel=f"{len(done)} before the answer")

    running.servicer.behavior = behavior
    response = await running.stub.Recall(recall_pb2.RecallRequest(request_id="r-7"))
    assert response.channel == "0 before the answer"
    await soon(lambda: running.observed("RecallService/Recall", "OK") == 1, "the call is measured")
    assert done == ["r-7"]
    assert "could not be measured or logged" in caplog.text


def test_without_a_call_nothing_is_left_for_later() -> None:
    done: list[int] = []
    after_answer(lambda: done.append(1))
    assert done == [1]
