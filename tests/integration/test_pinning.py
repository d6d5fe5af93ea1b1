"""A request is pinned to one bundle version through every hop, also where one process does not follow the release."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from recsys.v1.rank_pb2 import RankQuery, RankRequest
from recsys.v1.rank_pb2_grpc import RankServiceStub
from recsys.v1.recall_pb2 import RecallQuery, RecallRequest
from recsys.v1.recall_pb2_grpc import RecallServiceStub
from recsys.v1.types_pb2 import STAGE_STATUS_OK, History
from tests.integration.live import CALL_SECONDS, CHANGE_AT, System, details, publish_again, system, under_load
from tests.waiting import eventually

pytestmark = pytest.mark.integration

ROLLOUT_SECONDS = 1.5
NEVER = "86400"
"""Seconds between two looks of itemcf at what is released: within a test it never notices by itself."""


@pytest.fixture(scope="module")
def running(checkerboard_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Five servers, of which itemcf loads a new version only when it is asked for it."""
    folder = tmp_path_factory.mktemp("pinning")
    shutil.copytree(checkerboard_store, folder / "bundles")
    with system(
        folder / "bundles",
        folder,
        gateway_settings={"rollout-timeout-seconds": str(ROLLOUT_SECONDS)},
        role_settings={"itemcf": {"poll-seconds": NEVER}},
    ) as started:
        yield started


def test_a_process_that_lags_behind_holds_the_move_up_then_loads_what_it_is_asked_for(running: System) -> None:
    old = running.store.release().current

    def moved(version: str) -> bool:
        return running.status().gateway.active_version == version

    samples, new = asyncio.run(under_load(running, lambda: publish_again(running.store), moved))
    assert [sample.error for sample in samples if sample.error] == []
    given = [(sample.due + sample.latency, sample.response) for sample in samples if sample.response is not None]
    assert {response.bundle_version for _, response in given} == {old, new}
    first = next(answered for answered, response in given if response.bundle_version == new)
    assert ROLLOUT_SECONDS <= first - CHANGE_AT <= ROLLOUT_SECONDS + 20
    for _, response in given:
        versions = {entry.bundle_version for entry in response.stages if entry.bundle_version}
        assert versions == {response.bundle_version}
        assert not response.degraded, response.stages
        assert len([entry for entry in response.stages if entry.bundle_version]) == 4
    itemcf = running.statuses()["itemcf"]
    eventually(lambda: new in running.statuses()["itemcf"].ready_versions, "the gateway has heard that itemcf has it")
    assert itemcf.active_version == old
    moving = [line for line in running.log("gateway").splitlines() if f"moving to {new} without itemcf" in line]
    assert len(moving) == 1
    assert "still loading" in moving[0]


def ask_itemcf(stub: Any, version: str) -> Any:
    query = RecallQuery(history=History(item_ids=[2, 4]), as_of=1_000_000_000, count=5)
    return stub.Recall(RecallRequest(bundle_version=version, queries=[query]), timeout=CALL_SECONDS)


def test_a_channel_answers_with_the_version_that_it_is_asked_for(running: System) -> None:
    """One that it holds, one that is only on disk, and whatever is active; never another one in its place."""
    held = running.store.release().current
    between = publish_again(running.store)
    latest = publish_again(running.store)
    with grpc.insecure_channel(running.ports.target("itemcf")) as channel:
        stub = RecallServiceStub(channel)
        for version in (held, between, latest, held):
            response = ask_itemcf(stub, version)
            assert (response.channel, response.bundle_version) == ("itemcf", version)
            assert {item_id % 2 for item_id in response.results[0].item_ids} == {0}
        active = running.statuses()["itemcf"].active_version
        assert ask_itemcf(stub, "").bundle_version == active
        with pytest.raises(grpc.RpcError) as caught:
            ask_itemcf(stub, "20000101-000000-nowhere")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "has not loaded bundle 20000101-000000-nowhere, and it is not on disk," in details(caught.value)
    assert latest in details(caught.value)


def test_the_rank_server_answers_with_the_version_that_it_is_asked_for(running: System) -> None:
    release = running.store.release()
    eventually(lambda: running.statuses()["rank"].active_version == release.current, "rank follows")
    query = RankQuery(history=History(), as_of=1_000_000_000, item_ids=[1, 80])
    with grpc.insecure_channel(running.ports.target("rank")) as channel:
        stub = RankServiceStub(channel)
        for version in filter(None, (release.current, release.previous)):
            response = stub.Rank(RankRequest(bundle_version=version, queries=[query]), timeout=CALL_SECONDS)
            assert response.bundle_version == version
            first, last = response.results[0].scores
            assert first < last
        with pytest.raises(grpc.RpcError) as caught:
            stub.Rank(RankRequest(bundle_version="20000101-000000-nowhere", queries=[query]), timeout=CALL_SECONDS)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "rank has not loaded bundle 20000101-000000-nowhere" in details(caught.value)


def test_all_hops_agree_again_in_the_end(running: System) -> None:
    current = running.store.release().current
    eventually(lambda: running.ask(user_id=0).bundle_version == current, "the gateway has moved")
    response = running.ask(user_id=0)
    assert not response.degraded
    assert {entry.status for entry in response.stages} == {STAGE_STATUS_OK}
    assert {entry.bundle_version for entry in response.stages if entry.bundle_version} == {current}
