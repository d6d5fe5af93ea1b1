"""The dashboard: Grafana reports a broken panel only to the person who looks at it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import yaml


def test_panels_do_not_overlap_and_fit_the_grid(dashboard: dict[str, Any]) -> None:
    places = {panel["title"]: panel["gridPos"] for panel in dashboard["panels"]}
    assert len(places) == len(dashboard["panels"]), "two panels share a title"
    for (one, a), (other, b) in combinations(places.items(), 2):
        side_by_side = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        stacked = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert side_by_side or stacked, f"{one!r} lies over {other!r}"
    assert all(place["x"] + place["w"] <= 24 for place in places.values())


def test_panels_have_ids_of_their_own_and_say_what_they_show(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    undescribed = [panel["title"] for panel in panels if panel["type"] != "row" and not panel["description"]]
    assert undescribed == []


def test_every_query_names_the_provisioned_datasource(dashboard: dict[str, Any], docker_folder: Path) -> None:
    provisioned = yaml.safe_load((docker_folder / "grafana/provisioning/datasources/prometheus.yml").read_text())
    expected = {(source["type"], source["uid"]) for source in provisioned["datasources"]}
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    used = {(query["datasource"]["type"], query["datasource"]["uid"]) for panel in panels for query in panel["targets"]}
    used |= {(panel["datasource"]["type"], panel["datasource"]["uid"]) for panel in panels}
    assert used == expected


def test_the_provider_reads_the_folder_that_compose_mounts(docker_folder: Path) -> None:
    provider = yaml.safe_load((docker_folder / "grafana/provisioning/dashboards/recsys.yml").read_text())
    compose = yaml.safe_load((docker_folder / "compose.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in compose["services"]["grafana"]["volumes"]


def test_latency_is_shown_by_stage_part_and_percentile(charted: dict[str, str]) -> None:
    expressions = set(charted.values())
    assert {f"stage_part:recsys_stage_seconds:p{percentile}_1m" for percentile in (50, 95, 99)} <= expressions
    assert "stage_part:recsys_stage_seconds:mean1m" in expressions
