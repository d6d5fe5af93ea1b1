"""A release and a rollback under load: no request fails or degrades, and every hop of an answer has one version."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from offline.evaluation.open_loop import TimedAnswer
from offline.publish.publish import rollback
from recsys.v1.recommend_pb2 import RecommendResponse
from tests.integration.live import CHANGE_AT, System, publish_again, stage, system, under_load
from tests.published import USERS
from tests.waiting import eventually

pytestmark = pytest.mark.integration

PAUSE_SECONDS = 5.0
"""What a busy machine may add to an answer: pauses of a second or two, and what has piled up meanwhile."""

HOPS = ("recall:popularity", "recall:itemcf", "recall:vector", "rank")


@pytest.fixture(scope="module")
def running(checkerboard_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Five servers. Their time budget is long: what degrades here is degraded by the release, not by a busy machine."""
    folder = tmp_path_factory.mktemp("rollout")
    shutil.copytree(checkerboard_store, folder / "bundles")
    with system(folder / "bundles", folder) as started:
        yield started


def answers(samples: Sequence[TimedAnswer]) -> list[RecommendResponse]:
    """Every answer, in order; a request without one fails the test."""
    assert [sample.error for sample in samples if sample.error] == []
    return [sample.response for sample in samples if sample.response is not None]


def hops(response: RecommendResponse) -> set[str]:
    """The versions that the other processes answered with."""
    return {stage(response, name).bundle_version for name in HOPS}


@pytest.mark.parametrize("roll_back", [False, True], ids=["publish", "rollback"])
def test_the_switch_costs_no_request(running: System, *, roll_back: bool) -> None:
    """Every user asks again and again; the gateway moves because all are ready, not because it waited long enough."""
    before = running.store.release().current

    def release() -> str:
        return rollback(running.store).current if roll_back else publish_again(running.store)

    samples, after = asyncio.run(under_load(running, release, running.all_active))
    assert before != after
    given = answers(samples)
    assert [entry.cause for response in given for entry in response.stages if entry.cause] == []
    assert not any(response.degraded for response in given)
    assert [hops(response) for response in given] == [{response.bundle_version} for response in given]
    versions = [response.bundle_version for response in given]
    assert (versions[0], versions[-1]) == (before, after)
    assert set(versions) == {before, after}
    for user in range(USERS):
        seen = versions[user::USERS]
        assert not [pair for pair in pairwise(seen) if pair == (after, before)], seen
    assert f"moving to {after} without" not in running.log("gateway")
    usual = max((sample.latency for sample in samples if sample.due + sample.latency < CHANGE_AT), default=0.0)
    assert max(sample.latency for sample in samples) < max(PAUSE_SECONDS, 10 * usual)


def test_releases_in_quick_succession_end_at_the_last_one(running: System) -> None:
    versions = [publish_again(running.store) for _ in range(3)]
    eventually(lambda: running.all_active(versions[-1]), "every process uses the last release")
    response = running.ask(user_id=0)
    assert (response.bundle_version, response.degraded) == (versions[-1], False)
    assert hops(response) == {versions[-1]}
    assert {version for version in versions for _ in running.refusals(version)} == set()
