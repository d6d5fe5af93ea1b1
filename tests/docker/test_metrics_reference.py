"""docs/reference/metrics.md against the metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics_core import Metric

from recsys.telemetry import Telemetry

REFERENCE = Path(__file__).parents[2] / "docs/reference/metrics.md"


def exported_name(family: Metric) -> str:
    """The name as /metrics has it: counters end in _total."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def row(family: Metric, labels: tuple[str, ...]) -> str:
    """The line of the reference's table for one metric."""
    names = ", ".join(f"`{label}`" for label in labels) or "–"
    return f"| `{exported_name(family)}` | {family.type} | {names} | {family.documentation} |"


def rows() -> list[str]:
    """The lines of all metrics that processes write themselves, in the order of telemetry.py."""
    registry = Telemetry.create().registry
    labels = {
        collector._name: collector._labelnames
        for collector in registry._collector_to_names
        if hasattr(collector, "_labelnames")
    }
    return [row(family, tuple(labels[family.name])) for family in registry.collect() if family.name in labels]


def test_every_metric_is_documented_as_it_is() -> None:
    missing = [line for line in rows() if line not in REFERENCE.read_text(encoding="utf-8").splitlines()]
    assert missing == [], "put these lines into docs/reference/metrics.md:\n" + "\n".join(missing)


def test_every_metric_that_is_documented_exists() -> None:
    exported = {exported_name(family) for family in Telemetry.create().registry.collect()}
    documented = set(re.findall(r"^\| `(\w+)` \|", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE))
    assert documented <= exported
