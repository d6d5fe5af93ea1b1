"""What happens around every call of a server: codes, deadlines, admission, one log line, and what waits for after."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from recsys.errors import BundleMissing, ContractBroken, InvalidRequest, RecsysError
from recsys.logs import request_id_of_call, write_logs
from recsys.server.calls import REQUEST_ID_KEY, Calls, after_answer, note, remaining_seconds
from recsys.server.telemetry import Telemetry
from recsys.v1 import recall_pb2
from tests.recsys.answering import NAME, Behavior, Running
from tests.waiting import PATIENCE_SECONDS, soon


def raising(error: Exception) -> Behavior:
    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        raise error

    return behavior


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


async def test_an_unexpected_error_is_answered_by_request_id_and_traced_in_the_log_only(
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
    lines = [line for line in lines if line["logger"] == "recsys.server.calls"]
    assert [line["request_id"] for line in lines[:2]] == ["from-message", "from-metadata"]
    assert len(lines[2]["request_id"]) == 32
    assert len(lines) == 3
    expected = {"level": "INFO", "method": "RecallService/Recall", "code": "OK", "queries": 3}
    assert all({name: line[name] for name in expected} == expected for line in lines)


async def test_failed_calls_are_warnings(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.servicer.behavior = raising(InvalidRequest("count: 0"))
    await running.error()
    failed = [record for record in caplog.records if record.name == "recsys.server.calls"]
    assert [(record.levelno, record.getMessage()) for record in failed] == [(logging.WARNING, "count: 0")]


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
