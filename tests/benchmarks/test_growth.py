"""Enlarged catalogues, and the tables of what grows with a catalogue or a log."""

from __future__ import annotations

import growth
import large
import numpy as np
import pytest
from copies import Copies

FAMILIES = 5


@pytest.fixture(scope="module")
def copies() -> Copies:
    """200 items of five."""
    return Copies.make(FAMILIES, 200, np.random.default_rng(1))


def test_the_first_copies_are_the_items_themselves_and_all_are_numbered(copies: Copies) -> None:
    assert copies.base[:FAMILIES].tolist() == list(range(FAMILIES))
    assert copies.number[:FAMILIES].tolist() == [0] * FAMILIES
    for family in range(FAMILIES):
        numbers = copies.number[copies.base == family]
        assert numbers.tolist() == list(range(len(numbers)))


def test_what_is_drawn_is_a_copy_and_popular_ones_more_often(copies: Copies) -> None:
    wanted = np.arange(20_000) % FAMILIES
    drawn = copies.draw(wanted, np.random.default_rng(2))
    assert (copies.base[drawn] == wanted).all()
    counts = np.bincount(copies.number[drawn])
    assert counts[0] > 1.5 * counts[1] > 0
    assert len(np.unique(drawn)) == len(copies)


def test_copies_lie_around_their_items_and_no_two_are_alike(copies: Copies) -> None:
    vectors = np.random.default_rng(3).random((FAMILIES, 8), np.float32)
    scattered = copies.scattered(vectors, np.random.default_rng(4))
    assert (scattered[:FAMILIES] == vectors).all()
    assert len(np.unique(scattered, axis=0)) == len(copies)
    own = np.linalg.norm(scattered - vectors[copies.base], axis=1).mean()
    assert own < np.linalg.norm(scattered - vectors[(copies.base + 1) % FAMILIES], axis=1).mean()


def test_growth_is_that_of_each_round() -> None:
    assert growth.growth_of([[100, 300, 200], [110, 600, 220]]) == ["200", "220 (1.10 ×)"]


def test_the_exponent_is_that_of_the_two_largest_sizes() -> None:
    assert large.exponent({10: 1.0, 1_000: 8_000.0, 100: 80.0}) == pytest.approx(2)


def test_a_run_that_was_continued_says_so() -> None:
    run = {"wall_seconds": 60, "cpu_seconds": 90, "peak_mib": {"Pss": 2048}, "continued": False}
    run["ndcg@10"] = dict.fromkeys(large.SYSTEMS, 0.3)
    whole = {**run, "ndcg@10": {"ranked": 0.4}}
    result = {
        "runs": {"1000": run, "4000": {**run, "wall_seconds": 240, "continued": True}},
        "full": {"1000": whole},
        "served_p50_ms": {"1000": [1, 2, 3], "4000": [4, 4, 4], "ml": [2, 2, 2]},
    }
    first, second = (line.split(" | ") for line in large.table(result).splitlines()[2:4])
    assert [cell.strip(" |") for cell in (*first[:4], *first[-2:])] == [
        *("1,000", "1.0", "1.5", "2.0", "0.4000 (0.750 kept)", "2.0")
    ]
    assert second[0] == "| 4,000 (continued: costs are too low)"
    assert large.table(result).splitlines()[5:] == [
        "- time grows between the last two sizes as ratings^1.00",
        "- CPU time grows between the last two sizes as ratings^0.00",
        "- served p50 of 4,000 ratings ÷ that of ml, 2.0 ms: 2.00 [2.00, 2.00]",
    ]
