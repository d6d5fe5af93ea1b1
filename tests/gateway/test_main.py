"""The gateway as a process: how it starts, how it ends, and what it never loses."""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recsys.v1 import recommend_pb2, recommend_pb2_grpc, types_pb2
from tests.gateway.toy import policy, write_bundle
from tests.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.integration


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def command(folder: Path, port: int, *flags: str) -> list[str]:
    nobody = free_port()
    settings = {
        "port": port,
        "metrics-port": 0,
        "bundle-root": folder / "bundles",
        "events-file": folder / "events.sqlite",
        "answers-file": folder / "answers.sqlite",
        "recall": ",".join(f"{name}=127.0.0.1:{nobody}" for name in ("popularity", "itemcf", "vector")),
        "rank": f"127.0.0.1:{nobody}",
        "poll-seconds": 0.1,
        "log-format": "text",
    }
    pairs = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", "gateway", *pairs, *flags]


@contextmanager
def process(folder: Path, port: int, *flags: str) -> Iterator[subprocess.Popen[str]]:
    with (folder / "gateway.log").open("a") as log:
        running = subprocess.Popen(command(folder, port, *flags), stderr=log, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def health(channel: grpc.Channel) -> int | None:
    try:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1, wait_for_ready=True)
    except grpc.RpcError:
        return None
    status: int = answer.status
    return status


@contextmanager
def client(port: int) -> Iterator[grpc.Channel]:
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 100),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def test_alone_it_serves_its_popularity_list_follows_releases_and_drains(tmp_path: Path) -> None:
    port, root = free_port(), tmp_path / "bundles"
    with process(tmp_path, port) as running, client(port) as channel:
        stub: Any = recommend_pb2_grpc.RecommendationServiceStub(channel)
        eventually(lambda: health(channel) == NOT_SERVING, "it is up")
        write_bundle(root, "v1", policy=policy())
        eventually(lambda: health(channel) == SERVING, "it serves")
        response = stub.Recommend(recommend_pb2.RecommendRequest(user_id=4, count=3), timeout=30)
        assert [item.item_id for item in response.items] == [3, 4, 5]
        assert (response.bundle_version, response.degraded) == ("v1", True)
        write_bundle(root, "v2", policy=policy(), previous="v1", damaged="catalogue/years.npy")
        eventually(
            lambda: "v2" in {entry.bundle_version for entry in own_status(stub).refused_versions}, "v2 is refused"
        )
        assert own_status(stub).active_version == "v1"
        write_bundle(root, "v3", policy=policy(ranking="blended"), previous="v1")
        eventually(lambda: own_status(stub).active_version == "v3", "v3 is served")
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE_SECONDS) == 0
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()


def own_status(stub: Any) -> types_pb2.ServingStatus:
    status: types_pb2.ServingStatus = stub.Status(recommend_pb2.StatusRequest(), timeout=30).gateway
    return status


def no_database(folder: Path, taken: int) -> tuple[str, ...]:
    (folder / "broken.sqlite").write_bytes(b"this is not a database at all, whatever its name says" * 50)
    return ("--events-file", str(folder / "broken.sqlite"))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (lambda folder, taken: ("--port", str(taken)), "in use"),
        (no_database, "cannot be opened"),
        (lambda folder, taken: ("--hidden-items", str(folder / "absent.txt")), "no file of hidden items"),
        (lambda folder, taken: ("--rank", "nowhere"), "rank: "),
        (lambda folder, taken: ("--budget-seconds", "soon"), "budget_seconds"),
        (lambda folder, taken: ("--no-such-flag", "1"), "no-such-flag"),
        (lambda folder, taken: ("--workers", "2"), "set --workers 1"),
    ],
)
def test_what_it_cannot_start_with_is_one_line_and_exit_code_2(
    tmp_path: Path, flags: Callable[[Path, int], tuple[str, ...]], complaint: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        arguments = command(tmp_path, free_port(), *flags(tmp_path, taken.getsockname()[1]))
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert ended.returncode == 2
    assert complaint in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_acknowledged_events_survive_kills_at_random_moments(tmp_path: Path) -> None:
    """1,000 events in requests of 1 to 20, sent again until acknowledged; the process is killed again and again."""
    rng, port = random.Random(7), free_port()
    pending = [f"event-{n}" for n in range(1_000)]
    acknowledged: list[str] = []
    kills = 0
    while pending:
        with process(tmp_path, port, "--log-level", "ERROR") as running, client(port) as channel:
            eventually(lambda: health(channel) is not None, "it is up again")
            stub: Any = recommend_pb2_grpc.RecommendationServiceStub(channel)
            left = rng.randint(3, 25)
            while pending:
                batch = pending[: rng.randint(1, 20)]
                call = stub.RecordEvents.future(events_request(batch), timeout=30)
                if left == 0:
                    time.sleep(rng.uniform(0.0, 0.005))
                    os.kill(running.pid, signal.SIGKILL)
                    kills += 1
                left -= 1
                try:
                    response = call.result()
                except grpc.RpcError:
                    break
                assert response.recorded + response.duplicates == len(batch)
                acknowledged += batch
                pending = pending[len(batch) :]
            # What was in flight when the process died is sent again to the next one.
    assert kills >= 5
    connection = sqlite3.connect(tmp_path / "events.sqlite")
    found = [event_id for (event_id,) in connection.execute("SELECT event_id FROM events ORDER BY row_id")]
    connection.close()
    assert sorted(found) == sorted(acknowledged)
    assert len(found) == len(set(found)) == 1_000


def events_request(event_ids: list[str]) -> recommend_pb2.RecordEventsRequest:
    return recommend_pb2.RecordEventsRequest(
        events=[
            recommend_pb2.Event(event_id=event_id, user_id=4, item_id=5, type=types_pb2.EVENT_TYPE_CLICK)
            for event_id in event_ids
        ]
    )
