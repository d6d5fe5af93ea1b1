"""Callers who go away cost nothing that stays: a hundred thousand of them leave the gateway as it was."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from gateway.bundle.state import StoredHistories
from offline.local.cluster import LocalCluster
from offline.workflow.workflow import Workflow
from recsys.v1.recommend_pb2 import RecommendRequest, RecommendResponse
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub
from tests.integration.faults import started

pytestmark = [pytest.mark.integration, pytest.mark.alone, pytest.mark.long]

CANCELLED = 100_000
SIDE_BY_SIDE = 32
LONGEST_SECONDS = 0.03
"""Calls are cancelled at a random moment up to then: while they wait, and while channels or the ranker work."""
GROWTH_MIB = 16.0
"""What the gateway may be larger by at the end. A leak of one small object per call would be more."""


@pytest.fixture(scope="module")
def cluster(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, str]]:
    """The five servers on the small production bundle."""
    folder = tmp_path_factory.mktemp("cancelled") / "run"
    running, target = started(
        trained.config.store("production").root, folder, hang_seconds=60.0, gateway_settings={"budget-seconds": "30"}
    )
    yield running, target
    running.stop()


def test_cancelled_calls_leave_no_memory_behind(cluster: tuple[LocalCluster, str]) -> None:
    running, target = cluster
    users = StoredHistories.open(running.folder / "bundle").user_ids.tolist()
    asyncio.run(cancel(target, users, CANCELLED // 5))
    before = anonymous_bytes(running.pids()["gateway"])
    asyncio.run(cancel(target, users, CANCELLED))
    grown = (anonymous_bytes(running.pids()["gateway"]) - before) / 2**20
    assert grown < GROWTH_MIB
    answer = asyncio.run(ask(target, users[0]))
    assert not answer.degraded


def anonymous_bytes(pid: int) -> int:
    """Resident memory of a process that is not a mapped file: those are read on demand, user by user."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) << 10


async def cancel(target: str, users: list[int], calls: int) -> None:
    """Makes `calls` calls over a few connections and cancels each of them."""
    rng = random.Random(calls)
    left = iter(range(calls))

    async def one_after_the_other() -> None:
        async with grpc.aio.insecure_channel(target, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
            stub = RecommendationServiceStub(channel)
            for _ in left:
                call = stub.Recommend(RecommendRequest(user_id=rng.choice(users), count=10))
                await asyncio.sleep(rng.random() * LONGEST_SECONDS)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call

    await asyncio.gather(*(one_after_the_other() for _ in range(SIDE_BY_SIDE)))


async def ask(target: str, user: int) -> RecommendResponse:
    """An answer for somebody who stays."""
    async with grpc.aio.insecure_channel(target) as channel:
        return await RecommendationServiceStub(channel).Recommend(
            RecommendRequest(user_id=user, count=10), timeout=30.0
        )
