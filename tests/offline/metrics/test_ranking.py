"""Metrics against figures worked out by hand, and against a slow, literal reading of their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offline.metrics.ranking import (
    CUTS,
    NO_ITEM,
    Relevant,
    coverage,
    hits_of,
    intervals,
    mean_popularity,
    padded,
    paired_interval,
    per_request,
)
from recsys.errors import ContractBroken


def ids(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def test_known_answers_by_hand() -> None:
    """Three relevant items; hits at places 1 and 4 of five."""
    relevant = Relevant.of([ids(10, 40, 99)])
    hits = hits_of(padded([ids(10, 20, 30, 40, 50)]), relevant)
    metrics = per_request(hits, relevant.counts)
    assert hits[0, :5].tolist() == [True, False, False, True, False]
    assert metrics["recall@5"][0] == pytest.approx(2 / 3)
    assert metrics["normalised_recall@5"][0] == pytest.approx(2 / 3)
    assert metrics["precision@5"][0] == pytest.approx(2 / 5)
    assert metrics["precision@10"][0] == pytest.approx(2 / 10)
    assert metrics["hit_rate@5"][0] == 1
    assert metrics["mrr@5"][0] == 1
    assert metrics["map@5"][0] == pytest.approx((1 / 1 + 2 / 4) / 3)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert metrics["ndcg@5"][0] == pytest.approx((1 + 1 / math.log2(5)) / ideal)


def test_a_perfect_list_scores_one_and_a_useless_one_zero() -> None:
    relevant = Relevant.of([ids(1, 2), ids(3), np.arange(100)])
    perfect = per_request(hits_of(padded([ids(2, 1), ids(3), np.arange(100)]), relevant), relevant.counts)
    useless = per_request(hits_of(padded([ids(7), ids(), ids(500)]), relevant), relevant.counts)
    for k in CUTS:
        assert perfect[f"ndcg@{k}"].tolist() == [1, 1, 1]
        assert perfect[f"map@{k}"].tolist() == [1, 1, 1]
        assert perfect[f"normalised_recall@{k}"].tolist() == [1, 1, 1]
        assert perfect[f"recall@{k}"].tolist() == [1, 1, k / 100]
        assert all(useless[f"{name}@{k}"].sum() == 0 for name in ("ndcg", "map", "mrr", "recall"))


def test_a_hit_of_another_request_is_none() -> None:
    relevant = Relevant.of([ids(1), ids(2)])
    assert not hits_of(padded([ids(2), ids(1)]), relevant).any()


def test_padding_is_never_relevant() -> None:
    assert not hits_of(padded([ids()]), Relevant.of([ids(NO_ITEM)])).any()


def slow_metrics(shown: list[int], relevant: set[int], k: int) -> dict[str, float]:
    hits = [item in relevant for item in shown[:k]]
    places = [place for place, hit in enumerate(hits, start=1) if hit]
    return {
        f"recall@{k}": len(places) / len(relevant),
        f"normalised_recall@{k}": len(places) / min(k, len(relevant)),
        f"precision@{k}": len(places) / k,
        f"hit_rate@{k}": float(bool(places)),
        f"mrr@{k}": 1 / places[0] if places else 0.0,
        f"map@{k}": sum(n / place for n, place in enumerate(places, start=1)) / min(k, len(relevant)),
        f"ndcg@{k}": sum(1 / math.log2(place + 1) for place in places)
        / sum(1 / math.log2(place + 1) for place in range(1, min(k, len(relevant)) + 1)),
    }


def test_equals_the_definitions_on_random_worlds() -> None:
    rng = np.random.default_rng(3)
    shown = [rng.permutation(90)[: rng.integers(0, 70)] for _ in range(40)]
    wanted = [rng.choice(120, rng.integers(1, 80), replace=False) for _ in range(40)]
    relevant = Relevant.of(wanted)
    metrics = per_request(hits_of(padded(shown), relevant), relevant.counts)
    for request in range(40):
        for k in CUTS:
            for name, value in slow_metrics(shown[request].tolist(), set(wanted[request].tolist()), k).items():
                assert metrics[name][request] == pytest.approx(value), (name, request)


def worlds(seed: int, requests: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Lists and relevant items of different lengths, some of them longer than the largest cut."""
    rng = np.random.default_rng(seed)
    shown = [rng.permutation(150)[: rng.integers(1, 120)] for _ in range(requests)]
    return shown, [rng.choice(180, rng.integers(1, 140), replace=False) for _ in range(requests)]


def test_equals_an_independent_implementation() -> None:
    """ranx (Bassani 2022). Its map divides by R where ours divides by min(K, R)."""
    numba = pytest.importorskip("numba")
    numba.config.DISABLE_JIT = True  # compiling takes longer than the comparison
    from ranx import Qrels, Run, evaluate

    shown, wanted = worlds(seed=5, requests=25)
    relevant = Relevant.of(wanted)
    ours = per_request(hits_of(padded(shown), relevant), relevant.counts)
    names = [f"{name}@{k}" for name in ("recall", "precision", "ndcg", "hit_rate", "map", "mrr") for k in CUTS]
    theirs = evaluate(
        Qrels({f"{row:03}": {str(item): 1 for item in items} for row, items in enumerate(wanted)}),
        Run({f"{row:03}": {str(x): 1.0 / (i + 1) for i, x in enumerate(items)} for row, items in enumerate(shown)}),
        names,
        return_mean=False,
    )
    for name in names:
        metric, k = name.split("@")
        scale = np.minimum(relevant.counts, int(k)) / relevant.counts if metric == "map" else 1.0
        assert ours[name] * scale == pytest.approx(theirs[name]), name
        if metric == "recall":
            normalised = theirs[name] * relevant.counts / np.minimum(relevant.counts, int(k))
            assert ours[f"normalised_recall@{k}"] == pytest.approx(normalised), name


def test_coverage_counts_distinct_items_in_the_first_places() -> None:
    lists = padded([ids(1, 2, 3), ids(2, 1, 9)])
    assert coverage(lists, 10, 2) == 0.2
    assert coverage(lists, 10, 5) == 0.4


def test_mean_popularity_is_the_share_of_less_popular_items() -> None:
    catalogue, counts = ids(10, 20, 30, 40), np.asarray([5, 0, 5, 9])
    assert mean_popularity(padded([ids(40)]), catalogue, counts, 10) == 0.75
    assert mean_popularity(padded([ids(10, 20)]), catalogue, counts, 10) == pytest.approx((0.25 + 0) / 2)
    assert mean_popularity(padded([ids()]), catalogue, counts, 10) == 0.0


def test_intervals_hold_the_mean_and_draw_users_as_a_whole() -> None:
    values = np.random.default_rng(1).normal([0.3, 5.0], [0.1, 1.0], (400, 2))
    found = intervals(values, np.arange(400), resamples=500, seed=0)
    assert (found[:, 0] < values.mean(axis=0)).all()
    assert (values.mean(axis=0) < found[:, 1]).all()
    assert found[:, 1] - found[:, 0] == pytest.approx(2 * 1.96 * np.asarray([0.1, 1.0]) / 20, rel=0.2)
    assert found.tolist() == intervals(values, np.arange(400), resamples=500, seed=0).tolist()
    doubled = intervals(np.repeat(values, 2, axis=0), np.repeat(np.arange(400), 2), resamples=500, seed=0)
    assert doubled == pytest.approx(found)


def test_a_paired_interval_is_of_the_difference_over_the_same_users() -> None:
    """Users differ a lot, systems little: only the pairing can tell them apart."""
    rng = np.random.default_rng(2)
    theirs = rng.uniform(0, 1, (300, 1))
    ours = theirs + rng.normal(0.02, 0.01, (300, 1))
    (found,) = paired_interval(ours, theirs, np.arange(300), resamples=500, seed=0)
    assert found[0] == pytest.approx((ours - theirs).mean())
    assert 0 < found[1] < found[0] < found[2] < 0.03
    alone = intervals(ours, np.arange(300), resamples=500, seed=0)
    assert alone[0, 0] < theirs.mean() < alone[0, 1], "unpaired, the same systems cannot be distinguished"
    (same,) = paired_interval(ours, ours, np.arange(300), resamples=50, seed=0)
    assert same.tolist() == [0, 0, 0]


def test_values_of_other_requests_are_not_paired() -> None:
    with pytest.raises(ContractBroken, match="not of the same requests"):
        paired_interval(np.zeros((3, 1)), np.zeros((4, 1)), np.arange(3), resamples=5, seed=0)
