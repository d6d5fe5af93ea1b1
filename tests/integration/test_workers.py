"""Several processes per role on one machine: they share the load, the events and the answers."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from offline.local.ports import HOST
from recsys.config import ANSWERS_FILE
from recsys.v1 import types_pb2
from recsys.v1.recommend_pb2 import Event, RecommendRequest, RecordEventsRequest, StatusRequest
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub
from tests.integration.live import CALL_SECONDS, System, item_ids, system
from tests.waiting import eventually

pytestmark = pytest.mark.integration

WORKERS = {"gateway": 2, "itemcf": 2, "rank": 2}
REQUESTS = 120
EVEN = 0.2
"""How far the share of a worker may be from the mean."""
ROUND_ROBIN = (("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),)
CALLS = re.compile(r'^recsys_rpc_seconds_count\{code="OK",method="[^"]*/(?:Recommend|Recall|Rank)"\} (\S+)$', re.M)


@pytest.fixture(scope="module")
def running(checkerboard_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two gateways, two ItemCF servers, two rank servers; one process of each other role."""
    with system(checkerboard_store, tmp_path_factory.mktemp("workers"), workers=WORKERS) as running:
        for k in (1, 2):
            settle(running, f"gateway-{k}")
        yield running


def stub_of(channel: grpc.Channel) -> Any:
    return RecommendationServiceStub(channel)


def settle(running: System, gateway: str) -> None:
    """Waits until a gateway uses every other process."""

    def complete() -> bool:
        with grpc.insecure_channel(running.ports.target(gateway)) as channel:
            status = stub_of(channel).Status(StatusRequest(), timeout=CALL_SECONDS)
        return len(status.backends) == 6 and all(backend.reachable and not backend.cause for backend in status.backends)

    eventually(complete, f"{gateway} uses every other process")


def calls(running: System) -> dict[str, float]:
    """Calls answered so far, by process that has a twin."""
    names = [f"{role}-{k}" for role in WORKERS for k in (1, 2)]
    texts = {name: scraped(running, name) for name in names}
    return {name: sum(map(float, CALLS.findall(text))) for name, text in texts.items()}


def scraped(running: System, name: str) -> str:
    with urllib.request.urlopen(f"http://{HOST}:{running.ports.metrics[name]}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def test_load_is_even_over_the_workers_of_every_role(running: System) -> None:
    """A client that knows both gateways and takes turns; the gateways know both of the others."""
    both = ",".join(running.ports.target(f"gateway-{k}") for k in (1, 2))
    start = calls(running)

    def both_are_connected() -> bool:
        stub_of(channel).Recommend(RecommendRequest(), timeout=CALL_SECONDS)
        return all(count > start[name] for name, count in calls(running).items() if name.startswith("gateway"))

    with grpc.insecure_channel(f"ipv4:{both}", options=ROUND_ROBIN) as channel:
        eventually(both_are_connected, "the client is connected to both gateways")
        before = calls(running)
        waiting = [
            stub_of(channel).Recommend.future(RecommendRequest(user_id=n % 40, count=10), timeout=CALL_SECONDS)
            for n in range(REQUESTS)
        ]
        assert not any(call.result().degraded for call in waiting)
    had = {name: count - before[name] for name, count in calls(running).items()}
    assert had["gateway-1"] + had["gateway-2"] == REQUESTS
    for role in WORKERS:
        mean = (had[f"{role}-1"] + had[f"{role}-2"]) / 2
        assert abs(had[f"{role}-1"] - mean) <= EVEN * mean, had


def test_the_kernel_sends_connections_to_both_gateways(running: System) -> None:
    before = calls(running)
    for n in range(40):
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(running.target, options=options) as channel:
            stub_of(channel).Recommend(RecommendRequest(user_id=n, count=1), timeout=CALL_SECONDS)
    had = {name: count - before[name] for name, count in calls(running).items() if name.startswith("gateway")}
    assert sum(had.values()) == 40
    assert min(had.values()) > 5, had  # of 40 fair coins, one in 100,000 shows heads so rarely


def test_a_dislike_at_one_gateway_counts_in_the_next_answer_of_the_other(running: System) -> None:
    with (
        grpc.insecure_channel(running.ports.target("gateway-1")) as first,
        grpc.insecure_channel(running.ports.target("gateway-2")) as second,
    ):
        for n in range(6):
            writer, reader = (stub_of(channel) for channel in ((first, second) if n % 2 else (second, first)))
            asked = RecommendRequest(user_key="ada", count=5)
            best = item_ids(reader.Recommend(asked, timeout=CALL_SECONDS))[0]
            dislike = Event(
                event_id=f"ada {n}", user_key="ada", item_id=best, type=types_pb2.EVENT_TYPE_DISLIKE, request_id="x"
            )
            writer.RecordEvents(RecordEventsRequest(events=[dislike]), timeout=CALL_SECONDS)
            assert best not in item_ids(reader.Recommend(asked, timeout=CALL_SECONDS))


def test_a_worker_that_is_killed_costs_no_answer(running: System) -> None:
    pids, stop, degraded, asked = running.cluster.pids(), threading.Event(), [], []

    def ask_until_stopped() -> None:
        while not stop.is_set() or len(asked) <= 10:
            response = running.ask(user_id=len(asked) % 40, count=10)
            asked.append(response.request_id)
            degraded.extend(stage.cause for stage in response.stages if stage.cause)

    asking = threading.Thread(target=ask_until_stopped)
    asking.start()
    try:
        for name in ("rank-1", "itemcf-2"):
            before = len(asked)
            os.kill(pids[name], signal.SIGKILL)
            eventually(lambda before=before: len(asked) >= before + 10, "ten requests are answered")
            eventually(lambda name=name: running.cluster.pids()[name] not in (0, pids[name]), f"{name} is restarted")
    finally:
        stop.set()
        asking.join()
    running.settle()
    assert degraded == []


def test_the_answers_of_both_gateways_are_in_one_log(running: System) -> None:
    shown = []
    for k in (1, 2):
        with grpc.insecure_channel(running.ports.target(f"gateway-{k}")) as channel:
            shown.append(stub_of(channel).Recommend(RecommendRequest(user_id=1), timeout=CALL_SECONDS).request_id)

    def logged() -> bool:
        with closing(sqlite3.connect(running.cluster.folder.parent / "events" / ANSWERS_FILE)) as answers:
            query = "SELECT count(*) FROM answers WHERE request_id IN (?, ?)"
            return answers.execute(query, shown).fetchone() == (2,)

    eventually(logged, "both are in the log")
