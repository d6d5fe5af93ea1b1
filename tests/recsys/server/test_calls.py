"""What happens around every call of a server: codes, deadlines, admission, one log line, and what waits for after."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import aio

from recsys.errors import BundleMissing, ContractBroken, InvalidRequest, Overloaded, RecsysError
from recsys.logs import flush_logs, request_id_of_call, write_logs
from recsys.server.callers import REQUEST_ID_KEY, RETRY_KEY
from recsys.server.calls import CallLimits, Calls
from recsys.server.current_call import MAX_REQUEST_ID, after_answer, note, note_queries, remaining_seconds
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


@pytest.mark.parametrize("request_id", ["łódź", "two\nlines", "\x7f", "nul\0", "🎬" * MAX_REQUEST_ID])
async def test_a_request_id_that_cannot_be_sent_back_is_replaced(running: Running, request_id: str) -> None:
    running.servicer.behavior = raising(InvalidRequest("queries[0].count: 0"))
    found = await running.error(recall_pb2.RecallRequest(request_id=request_id), timeout=5.0)
    assert found.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert re.fullmatch("[0-9a-f]{32}", str(found.trailing_metadata()[REQUEST_ID_KEY]))


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05ab", b"\x08" * 11, bytes(1 << 20)])
async def test_bytes_that_are_no_message_are_the_callers_mistake(
    running: Running, caplog: pytest.LogCaptureFixture, message: bytes
) -> None:
    raw = running.channel.unary_unary(f"/{NAME}/Recall")
    with pytest.raises(aio.AioRpcError) as found:
        await raw(message, metadata=((REQUEST_ID_KEY, "r-18"),))
    assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (
        found.value.details() == f"{len(message)} bytes that are no request of this method; encode it as its proto says"
    )
    assert found.value.trailing_metadata()[REQUEST_ID_KEY] == "r-18"
    await soon(lambda: running.observed("RecallService/Recall", "INVALID_ARGUMENT") == 1, "the call is measured")
    assert [bool(record.exc_info) for record in caplog.records] == [False]


async def test_an_error_that_quotes_the_caller_is_cut_and_printable(running: Running) -> None:
    running.servicer.behavior = raising(InvalidRequest("user_key: " + "\n🎬" * 100_000))
    found = await running.error()
    assert found.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = found.details() or ""
    assert details.startswith(r"user_key: \n🎬\n🎬")
    assert details.endswith(" bytes cut)")
    assert len(details.encode()) < 2_000


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

    class Service(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(behavior, recall_pb2.RecallRequest.FromString)

    telemetry = Telemetry.create()
    details: Any = SimpleNamespace(method=f"/{NAME}/Recall")
    wrapped: Any = Calls(telemetry).surround(Service()).service(details)
    with pytest.raises(asyncio.CancelledError):
        await wrapped.unary_unary(b"", context)
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
    assert "2 calls of RecallService/Recall are in flight" in (refused.details() or "")
    await running.stub.Status(recall_pb2.RecallServiceStatusRequest())
    release.set()
    assert [answer.channel for answer in await asyncio.gather(*admitted)] == ["admitted"] * 2
    await running.stub.Recall(recall_pb2.RecallRequest())


async def test_a_call_that_nobody_could_answer_is_refused_before_its_message_is_read(running: Running) -> None:
    running.servicer.error = Overloaded("9 requests are waiting", retry_seconds=0.25)
    unreadable = running.channel.unary_unary(f"/{NAME}/Recall")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await unreadable(b"no message of ours", metadata=((REQUEST_ID_KEY, "r-17"),))
    assert (refused.value.code(), refused.value.details()) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "9 requests are waiting",
    )
    assert set(refused.value.trailing_metadata()) == {(REQUEST_ID_KEY, "r-17"), (RETRY_KEY, "250")}
    assert running.observed("RecallService/Recall", "RESOURCE_EXHAUSTED") == 1
    await running.stub.Status(recall_pb2.RecallServiceStatusRequest())
    running.servicer.error = None
    await running.stub.Recall(recall_pb2.RecallRequest())


async def test_oversized_messages_are_refused_with_both_sizes(running: Running) -> None:
    query = recall_pb2.RecallQuery(exclude_item_ids=[2**60] * 600_000)
    found = await running.error(recall_pb2.RecallRequest(queries=[query]))
    assert found.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (found.details() or "")
    assert "4194304" in (found.details() or "")


async def test_each_call_leaves_one_line_with_its_request_id_and_facts(
    running: Running, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
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
    flush_logs()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    lines = [line for line in lines if line["logger"] == "recsys.server.calls"]
    assert [line["request_id"] for line in lines[:2]] == ["from-message", "from-metadata"]
    assert len(lines[2]["request_id"]) == 32
    assert len(lines) == 3
    expected = {"level": "INFO", "method": "RecallService/Recall", "code": "OK", "queries": 3}
    assert all({name: line[name] for name in expected} == expected for line in lines)


IDS = [f"request-{number}" for number in range(400)]


class Sampling:
    """A process that logs 1 in 10 of its ordinary calls; each call is one batch of queries."""

    def __init__(self, caplog: pytest.LogCaptureFixture, *, slow_seconds: float = 5.0, lines: int = 0) -> None:
        caplog.set_level(logging.INFO)
        caplog.clear()
        self._caplog = caplog
        self._calls = Calls(
            Telemetry.create(), CallLimits(slow_seconds=slow_seconds, log_sample=10, lines_per_second=lines)
        )

    async def call(self, ids: Sequence[str], behavior: Behavior | None = None) -> None:
        context: Any = SimpleNamespace(time_remaining=lambda: None, invocation_metadata=tuple, abort=_abort)

        async def noting(request: Any, context: Any) -> Any:
            note_queries([recall_pb2.RecallQuery(request_id=request_id) for request_id in ids])
            return behavior and await behavior(request, context)

        wrapped = self._calls._wrap("RecallService/Recall", noting, recall_pb2.RecallRequest.FromString)
        await wrapped(recall_pb2.RecallRequest(request_id=f"batch of {ids[0]}").SerializeToString(), context)
        await asyncio.sleep(0)  # a call is logged after its answer

    def logged(self) -> set[str]:
        """The requests that a line names."""
        lines = [vars(record)["facts"] for record in self._caplog.records]
        return {request_id for line in lines for request_id in line["request_ids"]}


async def _abort(code: grpc.StatusCode, details: str, trailers: Any) -> None: ...


async def test_of_ordinary_calls_a_sample_is_logged_and_all_processes_choose_the_same_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone = Sampling(caplog)
    for request_id in IDS:
        await alone.call([request_id])
    chosen = alone.logged()
    assert len(IDS) / 20 < len(chosen) < len(IDS) / 5
    in_batches = Sampling(caplog)
    for first in range(0, len(IDS), 16):
        await in_batches.call(IDS[first : first + 16])
    assert chosen <= in_batches.logged()
    other_batches = Sampling(caplog)
    for request_id in sorted(set(IDS) - chosen):
        await other_batches.call([request_id, request_id])
    assert other_batches.logged() == set()


async def test_while_there_are_few_calls_all_are_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    for module in ("calls", "current_call"):
        monkeypatch.setattr(f"recsys.server.{module}.time", SimpleNamespace(perf_counter=lambda: now))
    process, ids = Sampling(caplog, lines=3), [f"few-{number}" for number in range(8)]
    for request_id in ids[:5]:
        await process.call([request_id])
    now += 1
    for request_id in ids[5:]:
        await process.call([request_id])
    by_id = {request_id for request_id in ids if zlib.crc32(request_id.encode()) % 10 == 0}
    assert process.logged() == {*ids[:3], *ids[5:], *by_id}
    assert process.logged() != set(ids)


@pytest.mark.parametrize("kind", ["failed", "degraded", "slow"])
async def test_calls_that_are_not_ordinary_are_all_logged(caplog: pytest.LogCaptureFixture, kind: str) -> None:
    async def behavior(request: Any, context: Any) -> None:
        if kind == "failed":
            raise InvalidRequest("count: 0")
        if kind == "degraded":
            note(degraded=["recall:itemcf"])

    process = Sampling(caplog, slow_seconds=0.0 if kind == "slow" else 5.0)
    for request_id in IDS[:40]:
        await process.call([request_id], behavior)
    assert process.logged() == set(IDS[:40])


async def test_the_request_of_every_query_of_a_batch_is_in_its_line(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        note_queries(request.queries)
        raise InvalidRequest("queries[1].count: 0")

    running.servicer.behavior = behavior
    write_logs("INFO", "json")
    ids = ["r-1", "r-2", "x" * 200]
    await running.error(recall_pb2.RecallRequest(queries=[recall_pb2.RecallQuery(request_id=one) for one in ids]))
    await soon(lambda: running.observed("RecallService/Recall", "INVALID_ARGUMENT") == 1, "the call is measured")
    flush_logs()
    (line,) = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert (line["queries"], line["request_ids"]) == (3, ["r-1", "r-2", "x" * MAX_REQUEST_ID])


async def test_what_comes_after_the_end_of_a_call_is_done_at_once(running: Running) -> None:
    """As the work of a batch may that outlives the call which began it."""
    done: list[str] = []
    outliving: list[asyncio.Task[None]] = []

    async def outlive() -> None:
        await soon(lambda: running.observed("RecallService/Recall", "OK") == 1, "the call is measured")
        after_answer(lambda: done.append("at once"))
        assert done == ["at once"]

    async def behavior(request: Any, context: Any) -> recall_pb2.RecallResponse:
        outliving.append(asyncio.create_task(outlive()))
        return recall_pb2.RecallResponse()

    running.servicer.behavior = behavior
    await running.stub.Recall(recall_pb2.RecallRequest())
    await outliving[0]


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
