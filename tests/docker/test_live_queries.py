"""Every query of the rules and the dashboard, asked of a real Prometheus that scrapes live processes."""

from __future__ import annotations

import itertools
import json
import math
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from recsys.config import METRICS_PORTS
from recsys.telemetry import Telemetry

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 40
LAST_TO_APPEAR = "recsys_requests_degraded:ratio1m"
STAGES = ("history", "recall:popularity", "recall:itemcf", "recall:vector", "merge", "filter", "rank", "rerank")
METHODS = dict.fromkeys(("popularity", "itemcf", "vector"), "RecallService/Recall")
METHODS |= {"rank": "RankService/Rank", "gateway": "RecommendationService/Recommend"}


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of the HTTP API; a refused query fails the test with Prometheus' own words."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=5) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def values(self, expression: str) -> list[float]:
        """The numbers that an instant query finds, without NaN."""
        found = [float(series["value"][1]) for series in self.ask("query", query=expression)["result"]]
        return [value for value in found if not math.isnan(value)]

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Asks twice a second until `condition` holds."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE_SECONDS} s for {what}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, int]]:
    """Metrics port by role of five live processes under traffic, one call in a hundred of which goes wrong."""
    stop, telemetries = threading.Event(), {role: Telemetry.create() for role in METRICS_PORTS}
    with ExitStack() as closing:
        ports = {}
        for role, telemetry in telemetries.items():
            server = telemetry.serve("127.0.0.1", 0)
            closing.callback(server.server_close)
            closing.callback(server.shutdown)
            ports[role] = server.server_port
        traffic = threading.Thread(target=_send_traffic, args=(telemetries, stop))
        traffic.start()
        closing.callback(traffic.join)
        closing.callback(stop.set)
        yield ports


def _send_traffic(telemetries: dict[str, Telemetry], stop: threading.Event) -> None:
    """Twenty requests a second as the servers would count them; every tenth degraded, every twentieth refused."""
    for role, telemetry in telemetries.items():
        telemetry.bundle_info.labels(role, "v1", "active").set(1)
        telemetry.bundle_loads.labels(role, "loaded").inc()
    for number in itertools.count():
        for role, telemetry in telemetries.items():
            telemetry.rpc_seconds.labels(METHODS[role], "OK").observe(0.004)
        gateway = telemetries["gateway"]
        for stage, part in itertools.product(STAGES, ("queue", "compute", "network")):
            gateway.stage_seconds.labels(stage, part, "ok").observe(0.001)
            gateway.stage_candidates.labels(stage, "in").observe(250)
            gateway.stage_candidates.labels(stage, "out").observe(200)
        gateway.requests.labels("degraded" if number % 10 == 0 else "ok").inc()
        if number % 10 == 0:
            gateway.degraded.labels("recall:vector", "timeout").inc()
        if number % 20 == 0:
            gateway.rpc_seconds.labels(METHODS["gateway"], "INVALID_ARGUMENT").observe(0.001)
        if stop.wait(0.05):
            return


@pytest.fixture(scope="module")
def prometheus(
    processes: dict[str, int], prometheus_binary: str, docker_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus with the committed rules, scraping the live processes under the committed job names, every second."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((docker_folder / "prometheus/local.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(docker_folder / "prometheus" / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{processes[job['job_name']]}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        prometheus_binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
    ]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        running = Prometheus(f"http://127.0.0.1:{port}")
        try:
            wait_until(running.ready, f"Prometheus, see {folder / 'log'}")
            wait_until(lambda: bool(running.values(LAST_TO_APPEAR)), LAST_TO_APPEAR)
            yield running
        finally:
            process.terminate()


def test_all_five_processes_are_scraped(prometheus: Prometheus) -> None:
    targets = prometheus.ask("targets")["activeTargets"]
    assert {target["labels"]["job"]: target["health"] for target in targets} == dict.fromkeys(METRICS_PORTS, "up")


def test_prometheus_evaluates_every_rule_without_an_error(
    prometheus: Prometheus, recorded: dict[str, str], alerts: dict[str, str]
) -> None:
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(recorded) | set(alerts)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}


def test_every_recorded_series_has_data(prometheus: Prometheus, recorded: dict[str, str]) -> None:
    assert [name for name in recorded if not prometheus.values(name)] == []


def test_every_panel_has_data(prometheus: Prometheus, charted: dict[str, str]) -> None:
    assert [panel for panel, expression in charted.items() if not prometheus.values(expression)] == []


def test_every_query_of_the_metrics_reference_has_data(prometheus: Prometheus, documented: dict[str, str]) -> None:
    assert documented
    empty = {question for question, expression in documented.items() if not prometheus.values(expression)}
    assert empty <= {"bundles that were refused", "errors that are not the caller's"}


def test_every_alert_parses_and_none_but_degradation_holds(prometheus: Prometheus, alerts: dict[str, str]) -> None:
    assert {name for name, expression in alerts.items() if prometheus.values(expression)} == {"RecsysDegraded"}


def test_figures_are_those_of_the_traffic(prometheus: Prometheus) -> None:
    [degraded] = prometheus.values("recsys_requests_degraded:ratio1m")
    assert degraded == pytest.approx(0.1, abs=0.03)
    [median] = prometheus.values('job_method:recsys_rpc_seconds:p50_1m{job="rank"}')
    assert 0.003 < median <= 0.005
    [vector] = prometheus.values(
        'stage_direction:recsys_stage_candidates:mean1m{stage="recall:vector",direction="out"}'
    )
    assert vector == pytest.approx(200)


def test_a_query_that_does_not_parse_is_noticed(prometheus: Prometheus) -> None:
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.values("sum by (job (up)")
