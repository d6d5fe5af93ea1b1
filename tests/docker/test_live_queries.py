"""Every query of the rules, the dashboard and the reference, asked of a real Prometheus that scrapes real servers."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from offline.local.cluster import TARGETS_FILE, LocalCluster
from offline.local.ports import Ports, free_ports
from offline.local.programs import programs
from recsys.channels import DEFAULT_CHANNELS
from recsys.v1 import recommend_pb2, recommend_pb2_grpc
from tests.published import ITEMS, USERS
from tests.waiting import PATIENCE_SECONDS, eventually

pytestmark = [pytest.mark.integration, pytest.mark.alone]

PATIENT = {"gateway": {"budget-seconds": "4", "probe-timeout-seconds": "2"}}
"""A busy machine must not degrade an answer here: what degrades is the channel that is stopped."""

OF_THE_MACHINE = {"RecsysSlow"}
"""Alerts that tell a slow machine; whether all is well is not their question."""

CALM_EVALUATIONS = 10
"""Evaluations in a row, one a second, in which nothing may hold; one is luck where a condition comes and goes."""

OF_ONE_SCRAPE = 0.01
"""How far means of two stages may differ when a scrape falls between the stages of one of a minute's 1,000 answers."""

EMPTY_WHILE_ALL_IS_WELL = {
    "stage_cause:recsys_degraded:rate1m",
    "Degradation by stage and cause, A",
    "share of degraded answers",
    "which part is missing, and why",
    "errors that are not the caller's",
    "bundles that were refused",
}


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of the HTTP API; a refused query fails the test with Prometheus' own words."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=60) as answer:
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
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="module")
def ports() -> Ports:
    """Where the servers of this file listen."""
    return Ports.free()


@pytest.fixture(scope="module")
def cluster(ports: Ports, checkerboard_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """The five servers on a small real bundle, under traffic."""
    folder = tmp_path_factory.mktemp("cluster")
    stop = threading.Event()
    traffic = threading.Thread(target=_send_traffic, args=(ports.target("gateway"), stop))
    servers = programs(checkerboard_store, folder, ports, role_settings=PATIENT)
    with LocalCluster(servers, folder / "logs", hang_seconds=PATIENCE_SECONDS) as running:
        running.wait_healthy(PATIENCE_SECONDS)
        traffic.start()
        try:
            yield running
        finally:
            stop.set()
            traffic.join()


def _send_traffic(target: str, stop: threading.Event) -> None:
    """Twenty requests a second, every tenth of which is refused."""
    with grpc.insecure_channel(target) as channel:
        stub = recommend_pb2_grpc.RecommendationServiceStub(channel)
        for number in itertools.count():
            request = recommend_pb2.RecommendRequest(user_id=number % USERS, count=10)
            if number % 10 == 0:
                request.filter.genres_any.append("no such genre")
            with contextlib.suppress(grpc.RpcError):
                stub.Recommend(request, timeout=30)
            if stop.wait(0.05):
                return


@pytest.fixture(scope="module")
def prometheus(
    cluster: LocalCluster,
    ports: Ports,
    prometheus_binary: str,
    docker_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:
    """Prometheus with the committed rules, scraping the servers under the committed job names, every second."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((docker_folder / "prometheus/local.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(docker_folder / "prometheus" / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["file_sd_configs"] = [{"files": [str(cluster.folder / TARGETS_FILE)]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    [port] = free_ports(1)
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
            eventually(running.ready, f"Prometheus is ready, see {folder / 'log'}")
            yield running
        finally:
            process.terminate()


def test_every_query_has_data_but_those_on_trouble(
    prometheus: Prometheus, recorded: dict[str, str], charted: dict[str, str], documented: dict[str, str]
) -> None:
    queries = {**{name: name for name in recorded}, **charted, **documented}
    assert len(queries) == len(recorded) + len(charted) + len(documented) > 50
    missing = set(queries) - EMPTY_WHILE_ALL_IS_WELL

    def all_found() -> bool:
        missing.difference_update({name for name in missing if prometheus.values(queries[name])})
        return not missing

    with contextlib.suppress(AssertionError):
        eventually(all_found, "every query has data")
    assert missing == set()
    for name in EMPTY_WHILE_ALL_IS_WELL & set(queries):
        prometheus.values(queries[name])


def test_all_processes_of_the_bundle_are_scraped(prometheus: Prometheus) -> None:
    expected = dict.fromkeys(["gateway", *DEFAULT_CHANNELS, "rank"], "up")

    def health() -> dict[str, str]:
        targets = prometheus.ask("targets")["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in targets}

    eventually(lambda: health() == expected, "each target was scraped")


def test_prometheus_evaluates_every_rule_without_an_error(
    prometheus: Prometheus, recorded: dict[str, str], alerts: dict[str, str]
) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]

    eventually(lambda: "unknown" not in {rule["health"] for rule in rules()}, "each rule was evaluated")
    assert {rule["name"] for rule in rules()} == set(recorded) | set(alerts)
    assert {rule["name"]: rule.get("lastError") for rule in rules() if rule["health"] != "ok"} == {}


def test_no_alert_holds_while_all_is_well(prometheus: Prometheus, alerts: dict[str, str]) -> None:
    calm: set[str] = set()

    def stays_calm() -> bool:
        evaluated = max(
            group["lastEvaluation"] for group in prometheus.ask("rules", type="alert")["groups"] if group["rules"]
        )
        if {name for name, expression in alerts.items() if prometheus.values(expression)} <= OF_THE_MACHINE:
            calm.add(evaluated)
        else:
            calm.clear()  # a scrape that came late is over by and by
        return len(calm) >= CALM_EVALUATIONS

    assert set(alerts) > OF_THE_MACHINE
    eventually(stays_calm, f"no alert holds in {CALM_EVALUATIONS} evaluations in a row")


def test_figures_are_those_of_the_traffic(prometheus: Prometheus) -> None:
    degraded = "recsys_requests_degraded:ratio1m"
    eventually(lambda: prometheus.values(degraded) == [0.0], "a minute passes in which no answer is degraded")
    [merged] = prometheus.values('stage_direction:recsys_stage_candidates:mean1m{stage="merge",direction="out"}')
    [ranked] = prometheus.values('stage_direction:recsys_stage_candidates:mean1m{stage="rank",direction="out"}')
    assert 30 <= ranked <= merged * (1 + OF_ONE_SCRAPE)
    assert merged <= ITEMS
    [refused] = prometheus.values('outcome:recsys_requests:rate1m{outcome="invalid"}')
    [rate] = prometheus.values("sum(outcome:recsys_requests:rate1m)")
    assert refused / rate == pytest.approx(0.1, abs=0.05)


def test_a_stopped_channel_shows_as_degradation_of_its_stage(
    prometheus: Prometheus, cluster: LocalCluster, charted: dict[str, str]
) -> None:
    stopped = cluster.pids()["vector"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        query = f"({charted['Degradation by stage and cause, A']}) > 0"
        eventually(lambda: bool(prometheus.values(query)), f"there is {query}")
        degraded = prometheus.ask("query", query=query)["result"]
        assert {series["metric"]["stage"] for series in degraded} == {"recall:vector"}
        eventually(lambda: prometheus.values("recsys_requests_degraded:ratio1m")[0] > 0, "answers are degraded")
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_a_query_that_does_not_parse_is_noticed(prometheus: Prometheus) -> None:
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.values("sum by (job (up)")
