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
from contextlib import ExitStack, contextmanager
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
        (lambda folder, taken: ("--channel-shares", "itmcf=0.5"), "no channel 'itmcf' in recall"),
        (lambda folder, taken: ("--channel-shares", "itemcf=0.1"), "would never be given up"),
        (lambda folder, taken: ("--no-such-flag", "1"), "no-such-flag"),
        (lambda folder, taken: ("--shared-port", str(taken)), "set --shared-port"),
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


class Worker:
    """One of the gateways that share the files; it is killed again and again."""

    def __init__(self, folder: Path, kills: random.Random, shared_port: int) -> None:
        self._folder, self._kills, self.port = folder, kills, free_port()
        self._flags = ("--log-level", "ERROR", "--shared-port", str(shared_port), "--events-read-seconds", "30")
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        """Starts the process and waits until it answers."""
        self.running = self._stack.enter_context(process(self._folder, self.port, *self._flags))
        channel = self._stack.enter_context(client(self.port))
        eventually(lambda: health(channel) == SERVING, "it is up again")
        self.stub: Any = recommend_pb2_grpc.RecommendationServiceStub(channel)
        self.calls_left = self._kills.randint(3, 25)

    def end(self) -> None:
        """Leaves nothing running."""
        self._stack.close()

    def record(self, users: list[str]) -> bool:
        """Whether it acknowledged that these users have seen item 3; sometimes it is killed meanwhile."""
        call = self.stub.RecordEvents.future(events_request(users), timeout=30)
        self.calls_left -= 1
        if self.calls_left < 0:
            time.sleep(self._kills.uniform(0.0, 0.005))
            os.kill(self.running.pid, signal.SIGKILL)
        try:
            response = call.result()
        except grpc.RpcError:
            return False
        assert response.recorded + response.duplicates == len(users)
        return True

    def shows(self, user: str) -> list[int]:
        """What it recommends to a user."""
        response = self.stub.Recommend(recommend_pb2.RecommendRequest(user_key=user, count=3), timeout=30)
        return [item.item_id for item in response.items]


def test_two_gateways_lose_nothing_acknowledged_when_they_are_killed_at_random_moments(tmp_path: Path) -> None:
    """1,000 events in requests of 1 to 20, sent to one or the other until acknowledged; then the other one knows."""
    rng = random.Random(7)
    write_bundle(tmp_path / "bundles", "v1", policy=policy())
    pending, acknowledged, kills = [f"visitor-{n}" for n in range(1_000)], [], 0
    shared_port = free_port()
    workers = [Worker(tmp_path, rng, shared_port) for _ in range(2)]
    assert workers[0].shows("visitor-0") == workers[1].shows("visitor-0") == [3, 1, 2]
    while pending:
        writer, reader = rng.sample(workers, 2)
        users = pending[: rng.randint(1, 20)]
        if writer.record(users):
            assert reader.shows(rng.choice(users)) == [1, 2, 4]
            acknowledged += users
            pending = pending[len(users) :]
        if writer.calls_left < 0:  # what was in flight when it died is sent again, to it or to the other one
            kills += 1
            writer.start()
    for worker in workers:
        worker.end()
    assert kills >= 4
    connection = sqlite3.connect(tmp_path / "events.sqlite")
    found = [user for (user,) in connection.execute("SELECT user_key FROM events ORDER BY row_id")]
    connection.close()
    assert sorted(found) == sorted(acknowledged)
    assert len(found) == len(set(found)) == 1_000


def events_request(users: list[str]) -> recommend_pb2.RecordEventsRequest:
    return recommend_pb2.RecordEventsRequest(
        events=[
            recommend_pb2.Event(event_id=user, user_key=user, item_id=3, type=types_pb2.EVENT_TYPE_VIEW)
            for user in users
        ]
    )
