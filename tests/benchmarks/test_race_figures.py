"""The race's own arithmetic: percentiles, ratios with their spread, what counts, and what h2load and /metrics say."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from race import closed_loop
from race.closed_loop import Done, command, done_of
from race.figures import Spread, percentile
from race.rounds import counted_of, not_refused_p99, recovery
from race.servers import Target, outcomes_of
from race.users import differences


def test_a_percentile_is_the_nearest_rank() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0.0, 0.2, 0.21, 0.5, 0.99, 1.0)] == [1, 1, 2, 3, 5, 5]
    assert percentile(list(range(1, 101)), 0.99) == 99
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_ratios_are_of_the_same_round() -> None:
    """Both are twice as slow in the second round, which therefore says the same."""
    assert Spread.of_ratios([10, 5, 12], [20, 10, 16]) == Spread(0.5, 0.5, 0.75, 3)
    assert Spread.of_ratios([1], [0]).median == math.inf
    with pytest.raises(ValueError, match="shorter"):
        Spread.of_ratios([1, 2], [1])


def test_h2load_counts_only_what_was_answered() -> None:
    log = "1796077446864872\t200\t41225\n1796077446864876\t-1\t9\n1796077446864868\t503\t7\n1796077446864869\t200\t83\n"
    assert done_of(log) == Done([41225, 83], 2)


def test_requests_in_flight_are_streams_of_grpc_and_connections_of_http() -> None:
    def flags(*, grpc: bool) -> list[str]:
        target = Target("127.0.0.1:1", "/x", {"te": "trailers"} if grpc else {}, b"1" if grpc else b"", grpc=grpc)
        return command(target, in_flight=8, seconds=0.125, body=Path("body"), log=Path("log"))

    assert flags(grpc=True)[1:5] == ["-c", "1", "-m", "8"]
    assert {"-d", "-H", "te: trailers", "125ms", "http://127.0.0.1:1/x"} <= set(flags(grpc=True))
    assert flags(grpc=False)[1:4] == ["--h1", "-c", "8"]
    assert "-d" not in flags(grpc=False)


def test_requests_in_flight_are_shared_out_evenly() -> None:
    targets = [Target("127.0.0.1:1", "/x", {}, b"", grpc=False)] * 8
    with pytest.raises(ValueError, match="take a multiple"):
        closed_loop.run(targets, in_flight=12, seconds=0.1)


def test_outcomes_come_from_the_gateway_and_from_codes() -> None:
    text = """\
# TYPE recsys_requests_total counter
recsys_requests_total{outcome="ok"} 90.0
recsys_requests_total{outcome="degraded"} 10.0
recsys_requests_total{outcome="failed"} 2.0
# TYPE recsys_rpc_seconds histogram
recsys_rpc_seconds_count{code="OK",method="RecommendationService/Recommend"} 100.0
recsys_rpc_seconds_count{code="RESOURCE_EXHAUSTED",method="RecommendationService/Recommend"} 7.0
recsys_rpc_seconds_count{code="DEADLINE_EXCEEDED",method="RecommendationService/Recommend"} 2.0
recsys_rpc_seconds_count{code="CANCELLED",method="RecommendationService/Recommend"} 3.0
recsys_rpc_seconds_count{code="INTERNAL",method="RecommendationService/Recommend"} 1.0
recsys_rpc_seconds_count{code="OK",method="RecommendationService/Status"} 55.0
"""
    assert outcomes_of(text) == {"ok": 90, "degraded": 10, "refused": 7, "late": 2, "failed": 1, "aborted": 3}


def test_what_is_degraded_refused_failed_or_late_does_not_count() -> None:
    outcomes = Counter(ok=5, degraded=2, refused=1, aborted=4)
    shares, counted = counted_of(Done([1_000] * 9 + [2_000_000], failed=2), outcomes, 1.0)
    assert counted == 12 - 2 - 1 - 1 - 2
    assert shares == {"degraded": 2 / 12, "refused": 1 / 12, "failed": 2 / 12, "late": 1 / 12}


@pytest.mark.parametrize(("late", "expected"), [(0, 0.1), (3, 0.26)])
def test_late_answers_are_in_the_tail_of_what_is_not_refused(late: int, expected: float) -> None:
    rows = [(0.1, "ok")] * 60 + [(0.1, "degraded")] * 37 + [(0.26, "late")] * late + [(0.001, "refused")] * 400
    assert not_refused_p99(rows) == expected
    assert math.isnan(not_refused_p99([(0.001, "refused")]))


def test_recovery_ends_with_the_last_request_that_does_not_count() -> None:
    rows = [(1.0, "late"), (2.1, "ok"), (2.5, "degraded"), (2.75, "refused"), (3.0, "ok")]
    assert recovery(rows, 2.0) == 0.75
    assert recovery(rows[:2], 2.0) == 0.0


def test_another_order_is_another_list() -> None:
    assert differences({1: [3, 2], 2: [4]}, {1: [2, 3], 2: [4]}) == ["user 1: [2, 3] instead of [3, 2]"]
