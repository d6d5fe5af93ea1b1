from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import Histogram, generate_latest

from recsys.errors import CannotStart
from recsys.server.telemetry import CANDIDATES, SECONDS, Telemetry

NAMES = {
    "recsys_log_lines_dropped",
    "recsys_rpc_seconds",
    "recsys_rpc_in_flight",
    "recsys_stage_seconds",
    "recsys_stage_candidates",
    "recsys_batch_size",
    "recsys_bundle_info",
    "recsys_bundle_loads",
    "recsys_degraded",
    "recsys_requests",
    "recsys_answers_dropped",
}


def test_every_metric_has_its_promised_name_and_a_help_text() -> None:
    families = {family.name: family for family in Telemetry.create().registry.collect()}
    assert {name for name in families if name.startswith("recsys_")} == NAMES
    assert all(family.documentation for family in families.values())
    assert "process_resident_memory_bytes" in families


def test_buckets_span_half_a_millisecond_to_two_seconds_in_order() -> None:
    assert (SECONDS[0], SECONDS[-1]) == (0.0005, 2.0)
    assert list(SECONDS) == sorted(SECONDS)


def test_histograms_count_what_they_observe_as_the_library_does() -> None:
    ours = Telemetry.create()
    theirs = Histogram("recsys_stage_candidates", "x", ("stage", "direction"), buckets=CANDIDATES, registry=None)
    for labels in (("rank", "in"), ("merge", "out")):
        for value in (0, 1, 1.5, 200, 2_000, 2_001, 1e9):
            ours.stage_candidates.labels(*labels).observe(value)
            theirs.labels(*labels).observe(value)
    (found,), (expected,) = ours.stage_candidates.collect(), theirs.collect()
    assert found.samples == [sample for sample in expected.samples if not sample.name.endswith("_created")]


def test_labels_are_looked_up_once() -> None:
    telemetry = Telemetry.create()
    assert telemetry.requests.labels("ok") is telemetry.requests.labels("ok")
    assert telemetry.requests.labels("ok") is not telemetry.requests.labels("degraded")
    with pytest.raises(ValueError, match="Incorrect label count"):
        telemetry.requests.labels("ok", "twice")


def test_registries_are_independent() -> None:
    first, second = Telemetry.create(), Telemetry.create()
    first.requests.labels("ok").inc()
    assert b'recsys_requests_total{outcome="ok"} 1.0' in generate_latest(first.registry)
    assert b"recsys_requests_total{" not in generate_latest(second.registry)


def test_metrics_are_served_on_a_port_of_their_own_and_a_taken_one_is_named() -> None:
    telemetry = Telemetry.create()
    telemetry.degraded.labels("rank", "timeout").inc()
    server = telemetry.serve("127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        assert 'recsys_degraded_total{cause="timeout",stage="rank"} 1.0' in text
        with pytest.raises(CannotStart, match=f"metrics port 127.0.0.1:{server.server_port}: Address already in use"):
            Telemetry.create().serve("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        server.server_close()
