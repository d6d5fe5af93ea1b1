"""What the files under docker/ ask of Prometheus, in one place for the tests."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).parents[2] / "docker"


def _rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((DOCKER / "prometheus" / file).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="session")
def docker_folder() -> Path:
    """The folder of images, compose file, Prometheus and Grafana."""
    return DOCKER


@pytest.fixture(scope="session")
def recorded() -> dict[str, str]:
    """Expression by name of the recorded series."""
    return {rule["record"]: rule["expr"] for rule in _rules("recording.yml")}


@pytest.fixture(scope="session")
def alerts() -> dict[str, str]:
    """Expression by name of the alert."""
    return {rule["alert"]: rule["expr"] for rule in _rules("alerts.yml")}


@pytest.fixture(scope="session")
def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    board: dict[str, Any] = json.loads((DOCKER / "grafana/dashboards/recsys.json").read_text(encoding="utf-8"))
    return board


@pytest.fixture(scope="session")
def charted(dashboard: dict[str, Any]) -> dict[str, str]:
    """Expression by "panel title, letter of the query"."""
    return {
        f"{panel['title']}, {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }


@pytest.fixture(scope="session")
def documented() -> dict[str, str]:
    """Expression by question of the metrics reference."""
    page = (DOCKER.parent / "docs/reference/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|`]+) \| `((?:[^`|]|\\\|)+)` \|$", page, re.MULTILINE)
    return {question: expression.replace("\\|", "|") for question, expression in rows}


@pytest.fixture(scope="session")
def prometheus_binary() -> str:
    """Path of the Prometheus server of the system."""
    return _binary("prometheus")


@pytest.fixture(scope="session")
def promtool_binary() -> str:
    """Path of promtool, which comes with Prometheus."""
    return _binary("promtool")


def _binary(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}; on Debian: apt-get install prometheus")
    return path
