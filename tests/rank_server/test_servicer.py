from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio

from rank_server.servicer import ROLE, SERVICE_NAME, RankServicer
from recsys import convert
from recsys.bundle import BundleStore
from recsys.server.compute import Compute
from recsys.server.server import Service
from recsys.server.telemetry import Telemetry
from recsys.server.versions import Versions
from recsys.testing import FakeRanker, release, serving, toy_rank_query, write_bundle
from recsys.v1 import rank_pb2, rank_pb2_grpc
from tests.older import as_older


@dataclass
class World:
    root: Path
    versions: Versions[FakeRanker]
    telemetry: Telemetry
    stub: Any

    async def error(self, *queries: rank_pb2.RankQuery, **request: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(aio.AioRpcError) as caught:
            await self.stub.Rank(rank_pb2.RankRequest(queries=queries, **request))
        return caught.value.code(), caught.value.details() or ""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    telemetry = Telemetry.create()
    versions = Versions(
        BundleStore(tmp_path), ROLE, FakeRanker.load, check=lambda ranker, bundle: None, telemetry=telemetry
    )
    for version, previous, scale in (("v1", None, 1.0), ("v2", "v1", -1.0)):
        write_bundle(tmp_path, version, scale=scale)
        release(tmp_path, version, previous)
        versions.refresh()
    compute = Compute(1, ROLE, telemetry)
    servicer = RankServicer(versions, compute, telemetry)
    service = Service(SERVICE_NAME, partial(rank_pb2_grpc.add_RankServiceServicer_to_server, servicer))
    async with serving([service], telemetry=telemetry) as target, aio.insecure_channel(target) as channel:
        yield World(tmp_path, versions, telemetry, rank_pb2_grpc.RankServiceStub(channel))
    compute.close()


async def test_scores_come_in_the_order_of_queries_and_candidates(world: World) -> None:
    queries = [convert.rank_query_to_proto(toy_rank_query(ids)) for ids in ([3, 1, 2], [], [12])]
    answer = await world.stub.Rank(rank_pb2.RankRequest(bundle_version="v1", queries=queries))
    assert answer.bundle_version == "v1"
    assert [list(result.scores) for result in answer.results] == [[3, 1, 2], [], [12]]
    assert [list(result.features) for result in answer.results] == [[], [], []]
    assert answer.compute_microseconds > 0


async def test_a_caller_that_reads_packed_results_gets_them(world: World) -> None:
    request = rank_pb2.RankRequest(bundle_version="v1", packed_results=True)
    for ids in ([3, 1, 2], [], [12]):
        convert.rank_query_to_proto(toy_rank_query(ids), request.queries.add(), return_features=True, packed=True)
    answer = await world.stub.Rank(request)
    assert answer.packed
    assert [list(result.scores) for result in answer.results] == [[], [], []]
    assert [convert.rank_result_from_proto(result).tolist() for result in answer.results] == [[3, 1, 2], [], [12]]
    assert convert.rank_features_from_proto(answer.results[2])[1].tolist() == [[12, 1]]
    labels = {"stage": "rank", "direction": "in"}
    assert world.telemetry.registry.get_sample_value("recsys_stage_candidates_sum", labels) == 4


async def test_an_older_gateway_is_answered_as_before(world: World) -> None:
    queries = [convert.rank_query_to_proto(toy_rank_query([3, 1]), return_features=True)]
    response = await world.stub.Rank(as_older(rank_pb2.RankRequest(bundle_version="v1", queries=queries)))
    assert as_older(response) == response
    assert list(response.results[0].scores) == [3, 1]


async def test_a_request_is_answered_by_the_version_it_is_pinned_to(world: World) -> None:
    query = convert.rank_query_to_proto(toy_rank_query([3]))
    answers = [
        await world.stub.Rank(rank_pb2.RankRequest(bundle_version=version, queries=[query]))
        for version in ("", "v1", "v2")
    ]
    assert [answer.bundle_version for answer in answers] == ["v2", "v1", "v2"]
    assert [answer.results[0].scores[0] for answer in answers] == [-3, 3, -3]
    code, details = await world.error(bundle_version="v9")
    assert (code, details) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "rank has not loaded bundle v9, and it is not on disk, or neither released nor newest there; loaded: v2, v1",
    )


async def test_features_come_back_where_they_were_asked_for(world: World) -> None:
    plain = convert.rank_query_to_proto(toy_rank_query([5, 4]))
    asking = convert.rank_query_to_proto(toy_rank_query([5, 4]), return_features=True)
    answer = await world.stub.Rank(rank_pb2.RankRequest(queries=[plain, asking]))
    assert len(answer.results[0].features) == 0
    names, features = convert.rank_features_from_proto(answer.results[1])
    assert (names, features.tolist()) == (("item_id", "channels"), [[5, 1], [4, 1]])


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (rank_pb2.RankQuery(item_ids=[1, 1]), "queries[0].item_ids: an item appears twice"),
        (rank_pb2.RankQuery(item_ids=[99]), "item_ids: the toy world has no such item"),
        (rank_pb2.RankQuery(history={"item_ids": [1], "values": [math.inf]}), "queries[0].history.values[0]: inf"),
    ],
)
async def test_bad_queries_are_refused_by_name(world: World, message: rank_pb2.RankQuery, complaint: str) -> None:
    code, details = await world.error(message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in details


@pytest.mark.parametrize(
    ("scores", "complaint"),
    [
        ([np.asarray([1, np.nan], np.float32)], "ranker: a score is not finite"),
        ([np.asarray([1], np.float32)], "ranker: 1 scores for 2 candidates"),
        ([], "ranker: 0 results for 1 queries"),
    ],
)
async def test_a_ranker_that_breaks_its_contract_is_an_internal_error(
    world: World, monkeypatch: pytest.MonkeyPatch, scores: list[np.ndarray], complaint: str
) -> None:
    monkeypatch.setattr(world.versions.active().servable, "score", lambda queries: scores)
    code, details = await world.error(convert.rank_query_to_proto(toy_rank_query([3, 1])))
    assert (code, details) == (grpc.StatusCode.INTERNAL, complaint)


async def test_status_and_metrics(world: World) -> None:
    await world.stub.Rank(rank_pb2.RankRequest(queries=[convert.rank_query_to_proto(toy_rank_query([3, 1]))]))
    status = (await world.stub.Status(rank_pb2.RankServiceStatusRequest())).status
    assert (status.role, list(status.ready_versions), status.active_version) == ("rank", ["v2", "v1"], "v2")
    assert status.reads_packed
    labels = {"stage": "rank", "direction": "in"}
    assert world.telemetry.registry.get_sample_value("recsys_stage_candidates_sum", labels) == 2
