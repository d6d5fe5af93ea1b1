"""Scrape configuration, recording rules and alerts, checked by Prometheus' own tool."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from offline.commands.serve import ServeConfig
from offline.local.cluster import TARGETS_FILE
from recsys.config import METRICS_PORTS
from recsys.server.telemetry import Telemetry

OUR_METRIC = re.compile(r"\b(recsys_\w+|process_\w+)")
RECORDED = re.compile(r"\w+:\w+(?::\w+)?")
WORD = re.compile(r"\w+")
NAMED_VALUES = {"part", "status", "state", "outcome", "cause", "result"}
"""Labels whose values a metric's help names."""
SUFFIXES = ("_bucket", "_count", "_sum", "_total")


def run(*command: str, folder: Path | None = None) -> None:
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("file", ["prometheus.yml", "local.yml"])
def test_promtool_accepts_the_configuration(file: str, docker_folder: Path, promtool_binary: str) -> None:
    run(promtool_binary, "check", "config", str(docker_folder / "prometheus" / file))


def test_each_alert_fires_when_it_should_and_only_then(promtool_binary: str) -> None:
    run(promtool_binary, "test", "rules", "alert_cases.yml", folder=Path(__file__).parent)


def test_the_series_of_the_cases_are_ones_that_a_process_exports() -> None:
    """Also their labels, and the values of those labels whose values the metric's help names."""
    telemetry = Telemetry.create()
    metrics = [metric for field in fields(telemetry) if "_labelnames" in vars(metric := getattr(telemetry, field.name))]
    exported = {family.name: (vars(metric)["_labelnames"], family) for metric in metrics for family in metric.collect()}
    for series in filter(OUR_METRIC.match, series_of_cases()):
        name, labels = series.rstrip("}").split("{")
        found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        names, family = exported[re.sub(r"_(bucket|count|sum|total)$", "", name)]
        assert set(found) - {"le"} == {"job", *names}, series
        assert {found[label] for label in NAMED_VALUES & found.keys()} <= {*WORD.findall(family.documentation)}, series


def series_of_cases() -> list[str]:
    worlds = yaml.safe_load((Path(__file__).parent / "alert_cases.yml").read_text())["tests"]
    return [series["series"] for world in worlds for series in world["input_series"]]


def test_each_alert_has_a_case(alerts: dict[str, str]) -> None:
    cases = yaml.safe_load((Path(__file__).parent / "alert_cases.yml").read_text())["tests"]
    fired = {
        case["alertname"] for world in cases for case in world.get("alert_rule_test", ()) if case.get("exp_alerts")
    }
    assert fired == set(alerts)


def test_each_alert_is_documented(alerts: dict[str, str], docker_folder: Path) -> None:
    text = (docker_folder.parent / "docs/reference/operations.md").read_text()
    assert set(re.findall(r"^\| `(Recsys\w+)`", text, re.MULTILINE)) == set(alerts)


def test_every_process_is_scraped_under_the_name_of_its_role(docker_folder: Path) -> None:
    jobs = yaml.safe_load((docker_folder / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    found = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    assert found == {role: [f"{role}:{port}"] for role, port in METRICS_PORTS.items()}


def test_prometheus_next_to_make_serve_reads_what_that_writes(docker_folder: Path) -> None:
    config = docker_folder / "prometheus/local.yml"
    (job,) = yaml.safe_load(config.read_text())["scrape_configs"]
    ((file,),) = (found["files"] for found in job["file_sd_configs"])
    logs = ServeConfig(root=docker_folder.parent / "data").home / "logs"
    assert (config.parent / file).resolve() == (logs / TARGETS_FILE).resolve()


def test_every_metric_that_is_asked_for_exists(
    recorded: dict[str, str], alerts: dict[str, str], charted: dict[str, str]
) -> None:
    exported = {family.name for family in Telemetry.create().registry.collect()}
    asked = [*recorded.values(), *alerts.values(), *charted.values()]
    for expression in asked:
        for name in OUR_METRIC.findall(RECORDED.sub("", expression)):
            family = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
            assert {family, name} & exported, f"{name} in {expression!r}: telemetry has only {sorted(exported)}"


def test_every_metric_is_documented(docker_folder: Path) -> None:
    page = (docker_folder.parent / "docs/reference/metrics.md").read_text(encoding="utf-8")
    exported = {family.name for family in Telemetry.create().registry.collect() if family.name.startswith("recsys_")}
    assert exported
    assert {name for name in exported if f"`{name}" not in page} == set()


def test_every_recorded_series_that_is_asked_for_is_recorded(
    recorded: dict[str, str], alerts: dict[str, str], charted: dict[str, str]
) -> None:
    for expression in [*recorded.values(), *alerts.values(), *charted.values()]:
        outside_labels = re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", expression)
        for name in RECORDED.findall(outside_labels):
            assert name in recorded, f"{name} in {expression!r} is not recorded"
