from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from offline.local.cluster import TARGETS_FILE, LocalCluster
from offline.local.ports import Ports, free_ports
from offline.local.programs import programs
from offline.local.supervision import Program
from offline.local.watchdog import ROUND_SECONDS
from recall_server.channels.popularity import GENRE_SCALES_FILE, SCORES_FILE, PopularityChannel
from recsys.bundle import golden
from recsys.config import METRICS_PORTS, PORTS, WORKER_STEP
from recsys.errors import CannotStart, Unreachable
from recsys.server import healthcheck
from recsys.testing import release, toy_recall_query, write_bundle
from tests.waiting import PATIENCE_SECONDS, eventually


def popularity_files(folder: Path) -> None:
    np.save(folder / SCORES_FILE, np.arange(1, 13, dtype=np.float32) / 12)
    np.save(folder / GENRE_SCALES_FILE, np.ones(2, np.float32))
    golden.record_recall(folder, "popularity", [toy_recall_query()], PopularityChannel.open(folder).recall)


def popularity_only(root: Path, **settings: str) -> list[Program]:
    write_bundle(root, "v1", roles=("popularity",), extra=popularity_files)
    release(root, "v1")
    servers = programs(root, root, Ports.free(), settings=settings)
    return [server for server in servers if server.name == "popularity"]


@contextlib.contextmanager
def cluster_of(servers: list[Program], folder: Path) -> Iterator[LocalCluster]:
    with LocalCluster(servers, folder, stop_seconds=60, hang_seconds=PATIENCE_SECONDS) as cluster:
        yield cluster
        kept = [pid for pid in cluster.pids().values() if pid]
    assert not [pid for pid in kept if psutil.pid_exists(pid)]


def test_free_ports_are_different_from_time_to_time_and_from_those_of_clients() -> None:
    found = [*free_ports(20), *free_ports(20)]
    assert len(set(found)) == 40
    assert max(found) < 32_768  # where Linux begins to give ports to clients
    ports = Ports.free()
    assert list(ports.grpc) == list(ports.metrics) == list(PORTS)
    assert len({*ports.grpc.values(), *ports.metrics.values()}) == 2 * len(PORTS)


def test_a_port_that_is_taken_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    before, between, after = free_ports(3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", between))
        monkeypatch.setattr("offline.local.ports._candidates", iter([before, between, after, before]))
        assert free_ports(2) == [before, after]
        with pytest.raises(CannotStart, match="1 of 250 ports are free, 2 are needed"):
            free_ports(2)


def test_the_five_programs_know_their_ports_and_each_other(tmp_path: Path) -> None:
    ports = Ports({role: 100 + i for i, role in enumerate(PORTS)}, {role: 200 + i for i, role in enumerate(PORTS)})
    servers = programs(
        tmp_path,
        tmp_path / "events",
        ports,
        settings={"log-level": "WARNING"},
        role_settings={"rank": {"compute-threads": "2"}},
    )
    commands = {server.name: " ".join(server.arguments) for server in servers}
    assert list(commands) == ["gateway", "popularity", "itemcf", "vector", "rank"]
    assert (
        "-m gateway --recall popularity=127.0.0.1:101,itemcf=127.0.0.1:102,vector=127.0.0.1:103" in commands["gateway"]
    )
    assert "--rank 127.0.0.1:104" in commands["gateway"]
    assert "-m recall_server --channel itemcf" in commands["itemcf"]
    assert "--port 104 --metrics-port 204" in commands["rank"]
    assert commands["rank"].endswith("--log-level WARNING --compute-threads 2")
    assert all("--log-level WARNING" in command for command in commands.values())
    assert [server.target for server in servers] == [f"127.0.0.1:{100 + i}" for i in range(5)]


def test_a_program_per_channel_that_is_asked_for(tmp_path: Path) -> None:
    ports = Ports({role: 100 + i for i, role in enumerate(PORTS)}, {role: 200 + i for i, role in enumerate(PORTS)})
    servers = programs(tmp_path, tmp_path, ports, channels=("popularity", "als", "content"))
    commands = {server.name: " ".join(server.arguments) for server in servers}
    assert list(commands) == ["gateway", "popularity", "als", "content", "rank"]
    assert "--recall popularity=127.0.0.1:101,als=127.0.0.1:105,content=127.0.0.1:106 --rank" in commands["gateway"]
    assert "--channel content" in commands["content"]
    assert "--port 106 --metrics-port 206" in commands["content"]


def test_several_workers_have_ports_of_their_own_and_gateways_share_one_more(tmp_path: Path) -> None:
    workers = {"gateway": 2, "itemcf": 2, "rank": 1}
    ports = Ports.default(1000, workers)
    servers = {server.name: server for server in programs(tmp_path, tmp_path, ports, workers=workers)}
    assert list(servers) == ["gateway-1", "gateway-2", "popularity", "itemcf-1", "itemcf-2", "vector", "rank"]
    commands = {name: " ".join(server.arguments) for name, server in servers.items()}
    for k in (1, 2):
        command = commands[f"gateway-{k}"]
        assert f"--port {51050 + 20 * k} --metrics-port {10150 + 20 * k} " in command
        assert "--shared-port 51050" in command
        assert f"itemcf=127.0.0.1:{51052 + 20}+127.0.0.1:{51052 + 40},vector=127.0.0.1:51053" in command
        assert "--rank 127.0.0.1:51054 " in command
        assert servers[f"gateway-{k}"].shared_target == ports.target("gateway") == "127.0.0.1:51050"
        assert f"--port {51052 + 20 * k} --metrics-port {10152 + 20 * k} " in commands[f"itemcf-{k}"]
    assert "--port 51053" in commands["vector"]
    assert "shared" not in commands["itemcf-1"] + commands["rank"]
    assert len({*ports.grpc.values(), *ports.metrics.values()}) == 2 * len(ports.grpc)
    assert max(PORTS.values()) - min(PORTS.values()) < WORKER_STEP
    assert list(Ports.free(workers).grpc) == list(ports.grpc)


def test_a_cluster_tells_prometheus_where_its_processes_are(tmp_path: Path) -> None:
    ports = Ports.free({"rank": 2})
    servers = programs(tmp_path, tmp_path, ports, channels=("popularity",), workers={"rank": 2})
    LocalCluster(servers, tmp_path)._write_targets()
    found = json.loads((tmp_path / TARGETS_FILE).read_text("utf-8"))
    assert [(entry["labels"]["job"], entry["targets"]) for entry in found] == [
        (role, [f"127.0.0.1:{ports.metrics[name]}"])
        for role, name in (("gateway",) * 2, ("popularity",) * 2, ("rank", "rank-1"), ("rank", "rank-2"))
    ]


@pytest.mark.parametrize("metrics", [False, True])
def test_a_taken_port_is_named_before_anything_starts(metrics: bool, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        targets = (f"127.0.0.1:{free_ports(1)[0]}", target) if metrics else (target, "")
        with pytest.raises(CannotStart, match=f"rank: port {target}: Address already in use.*--port-offset"):
            LocalCluster([Program("rank", ("-m", "rank_server"), *targets)], tmp_path).start()
    assert not list(tmp_path.iterdir())


def test_all_default_ports_move_together() -> None:
    moved = Ports.default(100)
    assert moved.grpc == {role: port + 100 for role, port in PORTS.items()}
    assert moved.metrics == {role: port + 100 for role, port in METRICS_PORTS.items()}
    assert Ports.default() == Ports(PORTS, METRICS_PORTS)


def test_a_cluster_that_does_not_run_has_nothing_to_stop(tmp_path: Path) -> None:
    assert LocalCluster([], tmp_path).stop() == {}


@pytest.mark.alone
@pytest.mark.integration
def test_a_server_that_is_killed_comes_back_and_all_exit_with_0(tmp_path: Path) -> None:
    servers = popularity_only(tmp_path / "bundles")
    with cluster_of(servers, tmp_path / "logs") as cluster:
        cluster.wait_healthy(PATIENCE_SECONDS)
        assert cluster.states()["popularity"] in ("starting", "running")
        seen = set()
        for _ in range(2):
            pid = cluster.pids()["popularity"]
            seen.add(pid)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: cluster.pids()["popularity"] not in (0, pid), "another process runs")
            cluster.wait_healthy(PATIENCE_SECONDS)
        assert len(seen) == 2
        assert cluster.stop() == {"popularity": 0}
    assert healthcheck.state(servers[0].target, timeout_seconds=30).startswith("UNAVAILABLE")
    assert "draining" in (tmp_path / "logs" / "popularity.log").read_text()


def stop_until_it_is_killed(cluster: LocalCluster, pid: int, hang_seconds: float) -> None:
    """Stops the server until the watchdog kills it. One that it has not heard yet it leaves alone: then it is heard."""
    while cluster.pids()["popularity"] == pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            time.sleep(2 * ROUND_SECONDS)
            os.kill(pid, signal.SIGSTOP)
        with contextlib.suppress(AssertionError):
            eventually(lambda: cluster.pids()["popularity"] != pid, "it is killed", seconds=hang_seconds + 10)


@pytest.mark.alone
@pytest.mark.integration
def test_a_server_that_hangs_is_killed_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    servers, hang_seconds = popularity_only(tmp_path / "bundles"), 4.0
    with LocalCluster(servers, tmp_path / "logs", stop_seconds=60, hang_seconds=hang_seconds) as cluster:
        cluster.wait_healthy(PATIENCE_SECONDS)
        pid = cluster.pids()["popularity"]
        stop_until_it_is_killed(cluster, pid, hang_seconds)
        eventually(lambda: cluster.pids()["popularity"] not in (0, pid), "another process runs")
        cluster.wait_healthy(PATIENCE_SECONDS)
        assert cluster.stop() == {"popularity": 0}
    assert f"popularity (pid {pid}) gave no answer for 4 to 5 s: killed" in caplog.text


@pytest.mark.alone
@pytest.mark.integration
def test_a_server_that_cannot_start_says_why_immediately(tmp_path: Path) -> None:
    server = Program("rank", ("-m", "recall_server", "--channel", "magic"), f"127.0.0.1:{free_ports(1)[0]}")
    complaint = "rank cannot start: recall_server: no recall channel 'magic'"
    with LocalCluster([server], tmp_path) as cluster, pytest.raises(CannotStart, match=complaint):
        cluster.wait_healthy(PATIENCE_SECONDS)


@pytest.mark.alone
@pytest.mark.integration
def test_a_server_without_a_bundle_is_unhealthy_with_its_last_words(tmp_path: Path) -> None:
    servers = [s for s in programs(tmp_path, tmp_path, Ports.free()) if s.name == "popularity"]
    with LocalCluster(servers, tmp_path / "logs") as cluster:
        log = tmp_path / "logs/popularity.log"
        eventually(lambda: log.is_file() and "no bundle was published" in log.read_text(), "it has said why")
        eventually(lambda: healthcheck.state(servers[0].target) == "NOT_SERVING", "it is up")
        with pytest.raises(
            Unreachable, match=r"not healthy after 0.1 s(?s:.*)popularity: (?s:.*)no bundle was published"
        ):
            cluster.wait_healthy(0.1)


@pytest.mark.alone
@pytest.mark.integration
def test_servers_drain_when_their_owner_is_killed(tmp_path: Path) -> None:
    server = popularity_only(tmp_path / "bundles")[0]
    script = tmp_path / "holder.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from offline.local.cluster import LocalCluster\n"
        "from offline.local.supervision import Program\n"
        f"program = Program({server.name!r}, {server.arguments!r}, {server.target!r})\n"
        "cluster = LocalCluster([program], Path(sys.argv[1]))\n"
        "cluster.start()\n"
        f"cluster.wait_healthy({PATIENCE_SECONDS})\n"
        "print('healthy', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "logs")], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "healthy\n"
        descendants = psutil.Process(holder.pid).children(recursive=True)
        assert len(descendants) == 1
        holder.kill()
        _, alive = psutil.wait_procs(descendants, timeout=PATIENCE_SECONDS)
        assert alive == []
    assert "draining" in (tmp_path / "logs/popularity.log").read_text()
