from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio

from recall_server.servicer import SERVICE_NAME, RecallServicer, stage_name
from recsys import convert
from recsys.bundle import BundleStore
from recsys.domain import History, ItemFilter, RecallQuery, RecallResult
from recsys.server.compute import Compute
from recsys.server.server import Service
from recsys.server.telemetry import Telemetry
from recsys.server.versions import Versions
from recsys.testing import TOY_CUTOFF, FakeChannel, release, serving, write_bundle
from recsys.v1 import recall_pb2, recall_pb2_grpc
from tests.older import as_older
from tests.waiting import PATIENCE_SECONDS

ROLE = "itemcf"


@dataclass
class World:
    root: Path
    versions: Versions[FakeChannel]
    telemetry: Telemetry
    target: str
    stub: Any

    async def recall(self, *queries: RecallQuery, version: str = "", **call: Any) -> recall_pb2.RecallResponse:
        messages = [convert.recall_query_to_proto(query) for query in queries]
        request = recall_pb2.RecallRequest(bundle_version=version, queries=messages, request_id="r-1")
        return await self.stub.Recall(request, **call)

    async def error(self, *queries: recall_pb2.RecallQuery, **request: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(aio.AioRpcError) as caught:
            await self.stub.Recall(recall_pb2.RecallRequest(queries=queries, **request))
        return caught.value.code(), caught.value.details() or ""

    def samples(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    telemetry = Telemetry.create()
    versions = Versions(
        BundleStore(tmp_path),
        ROLE,
        partial(FakeChannel.load, role=ROLE),
        check=lambda channel, bundle: None,
        telemetry=telemetry,
    )
    compute = Compute(1, stage_name(ROLE), telemetry)
    servicer = RecallServicer(versions, compute, telemetry)
    service = Service(SERVICE_NAME, partial(recall_pb2_grpc.add_RecallServiceServicer_to_server, servicer))
    async with serving([service], telemetry=telemetry) as target, aio.insecure_channel(target) as channel:
        yield World(tmp_path, versions, telemetry, target, recall_pb2_grpc.RecallServiceStub(channel))
    compute.close()


def publish(world: World, current: str, previous: str | None = None, *, scale: float = 1.0) -> None:
    write_bundle(world.root, current, scale=scale)
    release(world.root, current, previous)
    world.versions.refresh()


def query(count: int = 3, **fields: Any) -> RecallQuery:
    return RecallQuery(fields.pop("history", History.empty()), TOY_CUTOFF, count, **fields)


async def test_results_are_in_the_order_of_the_queries_and_name_channel_and_version(world: World) -> None:
    publish(world, "v1")
    answer = await world.recall(
        query(3),
        query(2, exclude_item_ids=np.asarray([1, 99, 1], np.int64)),
        query(4, item_filter=ItemFilter(genres_any=("Western",), max_year=1996)),
    )
    assert (answer.channel, answer.bundle_version) == (ROLE, "v1")
    assert [list(result.item_ids) for result in answer.results] == [[1, 2, 3], [2, 3], [2, 4, 6]]
    assert list(answer.results[0].scores) == pytest.approx([1, 1 / 2, 1 / 3])
    assert answer.queue_microseconds >= 0
    assert answer.compute_microseconds > 0


async def test_seeds_travel_where_there_are_any(world: World) -> None:
    publish(world, "v1")
    answer = await world.recall(query(2), query(2, history=History.of([7, 0], [1, 2])))
    assert [list(result.seed_present) for result in answer.results] == [[], [True, True]]
    assert list(answer.results[1].seed_item_ids) == [0, 0]


async def test_a_caller_that_reads_packed_results_gets_them(world: World) -> None:
    publish(world, "v1")
    queries = [query(3, history=History.of([7, 2], [1, 2])), query(2, exclude_item_ids=np.asarray([1], np.int64))]
    plain = await world.recall(*queries)
    assert not plain.packed
    request = recall_pb2.RecallRequest(packed_results=True)
    for one in queries:
        convert.recall_query_to_proto(one, request.queries.add(), packed=True)
    packed = await world.stub.Recall(request)
    assert packed.packed
    for result, expected in zip(packed.results, plain.results, strict=True):
        assert len(result.item_ids) == 0
        found, of_plain = (convert.recall_result_from_proto(message) for message in (result, expected))
        for name in ("item_ids", "scores", "seed_item_ids", "seed_present"):
            np.testing.assert_array_equal(getattr(found, name), getattr(of_plain, name))
    assert world.samples("recsys_stage_candidates_sum", stage="recall:itemcf", direction="out") == 10


async def test_an_older_gateway_is_answered_as_before(world: World) -> None:
    publish(world, "v1")
    older = as_older(recall_pb2.RecallRequest(queries=[convert.recall_query_to_proto(query(3))], request_id="r-1"))
    response = await world.stub.Recall(older)
    assert as_older(response) == response
    assert list(response.results[0].item_ids) == [1, 2, 3]


async def test_an_empty_batch_is_an_empty_answer(world: World) -> None:
    publish(world, "v1")
    assert len((await world.recall()).results) == 0


async def test_a_request_is_answered_by_the_version_it_is_pinned_to(world: World) -> None:
    publish(world, "v1", scale=1.0)
    publish(world, "v2", "v1", scale=5.0)
    found = {version: await world.recall(query(1), version=version) for version in ("", "v1", "v2")}
    assert [answer.bundle_version for answer in found.values()] == ["v2", "v1", "v2"]
    assert [answer.results[0].scores[0] for answer in found.values()] == [5.0, 1.0, 5.0]


async def test_a_version_on_disk_is_loaded_and_another_one_is_a_failed_precondition(world: World) -> None:
    publish(world, "v1")
    write_bundle(world.root, "v2", scale=7.0)
    assert (await world.recall(query(1), version="v2")).results[0].scores[0] == 7.0
    code, details = await world.error(bundle_version="v9")
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details == (
        "itemcf has not loaded bundle v9, and it is not on disk, or neither released nor newest there; loaded: v2, v1"
    )


async def test_without_a_bundle_the_answer_says_why(world: World) -> None:
    world.versions.refresh()
    code, details = await world.error()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "no bundle was published here; run" in details


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (recall_pb2.RecallQuery(count=0), "queries[1].count: 0; expected 1 to 2000"),
        (recall_pb2.RecallQuery(count=1, as_of=-5), "queries[1].as_of: -5"),
        (
            recall_pb2.RecallQuery(count=1, filter={"genres_any": ["Opera"]}),
            "filter.genres_any: unknown genre 'Opera'; this bundle knows: Drama, Western",
        ),
    ],
)
async def test_bad_queries_are_refused_by_name(world: World, message: recall_pb2.RecallQuery, complaint: str) -> None:
    publish(world, "v1")
    code, details = await world.error(recall_pb2.RecallQuery(count=1), message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in details


async def test_too_many_queries_are_refused(world: World) -> None:
    publish(world, "v1")
    code, details = await world.error(*[recall_pb2.RecallQuery(count=1)] * 257)
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "queries: 257, at most 256 are allowed; split the batch",
    )


async def test_status_tells_what_is_ready_and_refused(world: World) -> None:
    publish(world, "v1")
    write_bundle(world.root, "v2")
    (world.root / "v2" / ROLE / FakeChannel.FILE).unlink()
    release(world.root, "v2", "v1")
    world.versions.refresh()
    status = (await world.stub.Status(recall_pb2.RecallServiceStatusRequest())).status
    assert (status.role, list(status.ready_versions), status.active_version) == (ROLE, ["v1"], "v1")
    assert status.reads_packed
    assert [refused.bundle_version for refused in status.refused_versions] == ["v2"]
    assert "scale.npy: missing" in status.refused_versions[0].reason


class Busy:
    """A channel whose first batches keep the event loop busy, each for as long as its entry in `holds` says."""

    def __init__(self, channel: FakeChannel, holds: Sequence[Callable[[], object]]) -> None:
        self._channel, self._holds = channel, list(holds)
        self.began = threading.Event()
        self.batches = 0

    def recall(self, queries: Sequence[RecallQuery]) -> list[RecallResult]:
        self.batches += 1
        self.began.set()
        if self._holds:
            self._holds.pop(0)()
        return self._channel.recall(queries)


def made_busy(world: World, *holds: Callable[[], object]) -> Busy:
    publish(world, "v1")
    loaded = world.versions.active()
    loaded.servable = busy = Busy(loaded.servable, holds)
    return busy


def sent_from_elsewhere(world: World, busy: Busy, *, timeout: float, stated: bool = True) -> grpc.Future:
    """A call that is sent while the loop is busy; `stated`: it tells the time that it was given."""
    assert busy.began.wait(PATIENCE_SECONDS)
    channel = grpc.insecure_channel(world.target)
    microseconds = int(timeout * 1e6) if stated else 0
    message = convert.recall_query_to_proto(query())
    request = recall_pb2.RecallRequest(queries=[message], timeout_microseconds=microseconds)
    return recall_pb2_grpc.RecallServiceStub(channel).Recall.future(request, timeout=timeout)


@pytest.mark.parametrize("stated", [True, False])
async def test_a_call_that_waited_for_the_event_loop_says_how_long(world: World, stated: bool) -> None:
    release, began = threading.Event(), time.perf_counter()

    def hold() -> None:
        assert release.wait(PATIENCE_SECONDS)
        time.sleep(1)

    busy = made_busy(world, hold)

    def send() -> grpc.Future:
        call = sent_from_elsewhere(world, busy, timeout=20, stated=stated)  # rounded up by 0.1 s at most
        release.set()
        return call

    sending = asyncio.create_task(asyncio.to_thread(send))
    first = await world.recall(query())
    second = await asyncio.to_thread((await sending).result)
    passed = (time.perf_counter() - began) * 1e6
    assert first.compute_microseconds >= 1_000_000
    assert second.compute_microseconds < 500_000
    if stated:
        assert 500_000 <= second.queue_microseconds <= passed
        labels = {"stage": "recall:itemcf", "part": "queue", "status": "ok"}
        assert world.samples("recsys_stage_seconds_sum", **labels) * 1e6 >= second.queue_microseconds
    else:
        assert second.queue_microseconds < 500_000, "the time on the way is unknown"


async def test_a_call_whose_deadline_passes_while_it_waits_is_not_computed(world: World) -> None:
    """Two calls wait for the loop; the one that it takes up first lasts until the time of both is over."""
    sent, late = threading.Event(), threading.Event()

    def until_both_wait() -> None:
        assert sent.wait(PATIENCE_SECONDS)
        time.sleep(0.2)

    busy = made_busy(world, until_both_wait, lambda: late.wait(PATIENCE_SECONDS))

    def send() -> list[grpc.StatusCode]:
        calls = [sent_from_elsewhere(world, busy, timeout=0.9) for _ in range(2)]
        sent.set()
        errors = [call.exception(PATIENCE_SECONDS) for call in calls]
        late.set()
        return [error.code() for error in errors]

    sending = asyncio.create_task(asyncio.to_thread(send))
    await world.recall(query())
    assert await sending == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
    late.set()
    await world.recall(query())
    assert busy.batches <= 3, "the first, the last, and one of those between them"


async def test_queue_and_compute_are_measured_apart(world: World) -> None:
    publish(world, "v1")
    world.versions.active().servable.sleep_seconds = 0.1
    began = time.perf_counter()
    answers = await asyncio.gather(*(world.recall(query(), query()) for _ in range(2)))
    passed = (time.perf_counter() - began) * 1e6
    assert min(answer.compute_microseconds for answer in answers) >= 100_000
    assert all(answer.queue_microseconds + answer.compute_microseconds <= passed for answer in answers)
    stage = {"stage": "recall:itemcf", "status": "ok"}
    assert world.samples("recsys_stage_seconds_count", part="queue", **stage) == 2
    assert world.samples("recsys_stage_seconds_sum", part="compute", **stage) >= 0.2
    assert world.samples("recsys_stage_candidates_sum", stage="recall:itemcf", direction="out") == 12


async def test_a_stored_history_of_any_plausible_length_is_taken(world: World) -> None:
    publish(world, "v1")
    n, now = 300_000, 1_700_000_000
    history = History.of(np.full(n, 1 << 40), timestamps=np.full(n, now), values=np.full(n, 4.0))
    long = RecallQuery(history, now, 3)
    assert convert.recall_query_to_proto(long).ByteSize() > 4 << 20
    assert list((await world.recall(long)).results[0].item_ids) == [1, 2, 3]
