from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recall_server.channels.popularity import GENRE_SCALES_FILE, SCORES_FILE, PopularityChannel
from recall_server.main import RecallServerConfig, main
from recsys.bundle import golden
from recsys.errors import CannotStart
from recsys.testing import release, toy_recall_query, write_bundle
from recsys.v1 import recall_pb2, recall_pb2_grpc
from tests.waiting import PATIENCE_SECONDS


def popularity_files(folder: Path) -> None:
    """Item 12 is the most popular one, item 1 the least."""
    np.save(folder / SCORES_FILE, np.arange(1, 13, dtype=np.float32) / 12)
    np.save(folder / GENRE_SCALES_FILE, np.ones(2, np.float32))
    golden.record_recall(folder, "popularity", [toy_recall_query()], PopularityChannel.open(folder).recall)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    command = [sys.executable, "-m", "recall_server", "--port", str(port), "--metrics-port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process, port
    finally:
        process.kill()
        process.communicate()


def health(port: int) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS, wait_for_ready=True)
        return int(answer.status)


def wait_until_serving(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS, wait_for_ready=True):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


@pytest.mark.integration
def test_the_life_of_a_server_from_no_bundle_to_sigterm(tmp_path: Path) -> None:
    with started("--channel", "popularity", "--bundle-root", str(tmp_path), "--poll-seconds", "0.1") as (server, port):
        assert health(port) == health_pb2.HealthCheckResponse.NOT_SERVING
        write_bundle(tmp_path, "v1", extra=popularity_files)
        release(tmp_path, "v1")
        wait_until_serving(port)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            query = recall_pb2.RecallQuery(count=3, exclude_item_ids=[11])
            request = recall_pb2.RecallRequest(queries=[query], bundle_version="v1")
            answer = recall_pb2_grpc.RecallServiceStub(channel).Recall(request, timeout=30)
        assert (answer.channel, list(answer.results[0].item_ids)) == ("popularity", [12, 10, 9])
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=PATIENCE_SECONDS)
    assert server.returncode == 0
    assert "no bundle was published here" in log
    assert "health is SERVING" in log
    assert "Traceback" not in log


@pytest.mark.integration
def test_two_servers_on_one_port_are_one_server_and_one_clear_error(tmp_path: Path) -> None:
    with started("--channel", "popularity", "--bundle-root", str(tmp_path)) as (_, port):
        health(port)
        with started("--channel", "popularity", "--bundle-root", str(tmp_path), "--port", str(port)) as (second, _):
            _, log = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 2
    assert log.splitlines()[-1].startswith(f"recall_server: port 127.0.0.1:{port}: in use")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "channel: Field required; set it with --channel"),
        (["--channel", "magic"], "no recall channel 'magic'; choose one of popularity, itemcf, vector"),
    ],
)
def test_a_wrong_channel_is_one_line_and_exit_code_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *(["--log-level", "ERROR"])]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"recall_server: {complaint}")
    assert error.count("\n") == 1


def test_ports_follow_the_channel_unless_they_are_given() -> None:
    def ports(*arguments: str) -> tuple[int, int]:
        config = RecallServerConfig.from_arguments(arguments, "recall_server")
        return config.port, config.metrics_port

    assert ports("--channel", "popularity") == (50051, 9151)
    assert ports("--channel", "itemcf") == (50052, 9152)
    assert ports("--channel", "vector", "--port", "7") == (7, 9153)
    with pytest.raises(CannotStart):
        ports()
