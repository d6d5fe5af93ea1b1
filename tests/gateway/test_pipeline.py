"""The pipeline alone: what its policy asks for and what its sources can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest

from gateway.fallback import Fallback
from gateway.pipeline import Pipeline, Request
from gateway.stages import Budget, RecallSource, Status
from recsys.domain import History, RecallQuery, RecallResult
from recsys.v1 import recommend_pb2
from tests.gateway.toy import POPULAR, catalogue, policy
from tests.gateway.world import gateway


class Fixed(RecallSource):
    """Answers every query with the same items."""

    def __init__(self, name: str, item_ids: Sequence[int]) -> None:
        self.name = name
        self._result = RecallResult(
            np.asarray(item_ids, np.int64), np.linspace(1, 0.5, len(item_ids), dtype=np.float32)
        )

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> Sequence[RecallResult]:  # noqa: ASYNC109
        return [self._result] * len(queries)


def pipeline(sources: Sequence[RecallSource]) -> Pipeline:
    items = catalogue()
    return Pipeline(items, policy(ranking="blended"), sources, None, Fallback(items, np.asarray(POPULAR, np.int64)))


async def test_every_channel_of_the_policy_is_a_stage_in_its_order() -> None:
    sources = [Fixed("vector", [7]), Fixed("itemcf", [6, 5]), Fixed("popularity", [3, 1])]
    (answer,) = await pipeline(sources).run([Request(History.empty(), 0, 5)], Budget.of(1.0))
    assert [stage.name for stage in answer.stages[:3]] == ["recall:popularity", "recall:itemcf", "recall:vector"]
    assert not answer.degraded
    assert sorted(answer.candidates.item_ids.tolist()) == [1, 3, 5, 6, 7]


@pytest.mark.parametrize("configured", ["popularity", "itemcf", ""])
async def test_a_channel_of_the_policy_that_is_not_configured_is_a_failed_stage(configured: str) -> None:
    sources = [Fixed(configured, [6, 5])] if configured else []
    requests = [Request(History.empty(), 0, 2), Request(History.of([11], [0]), 0, 2)]
    for answer in await pipeline(sources).run(requests, Budget.of(1.0)):
        failed = [stage for stage in answer.stages if stage.status is Status.FAILED]
        expected = [f"recall:{name}" for name in ("popularity", "itemcf", "vector") if name != configured]
        assert [stage.name for stage in failed] == expected
        assert {stage.cause for stage in failed} == {"no such channel is configured; add it to --recall"}
        assert answer.degraded
        assert len(answer.candidates) == 2


async def test_similar_items_asks_its_channels_also_where_the_policy_names_none_of_them(tmp_path: Path) -> None:
    popularity_only = policy().model_copy(update={"channels": policy().channels[:1]})
    async with gateway(tmp_path, popularity_only) as world:
        response = await world.stub.SimilarItems(recommend_pb2.SimilarItemsRequest(item_id=1, count=3))
        assert [item.item_id for item in response.items] == [6, 7, 5]
        assert not response.degraded
        world.processes["itemcf"].failure = world.processes["vector"].failure = grpc.StatusCode.UNAVAILABLE
        response = await world.stub.SimilarItems(recommend_pb2.SimilarItemsRequest(item_id=1, count=3))
        assert response.degraded
        assert [item.item_id for item in response.items] == [3, 2, 4]
