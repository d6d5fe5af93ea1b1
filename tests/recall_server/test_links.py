"""The compiled links find what the numpy form finds, to the bit, whatever was asked before and by whomever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recall_server.channels.links import Links, NumpyLinks, make_links
from recsys.kernels import COMPILED

pytestmark = pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled")


class Asked(NamedTuple):
    """The arguments of one search."""

    rows: NDArray[np.int64]
    weights: NDArray[np.float32]
    count: int
    excluded: NDArray[np.int64]
    passing: NDArray[np.uint8] | None

    def of(self, links: Links) -> list[bytes]:
        """What the search finds, to be compared to the bit."""
        found = links.best(self.rows, self.weights, self.count, excluded=self.excluded, passing=self.passing)
        assert [part.dtype for part in found] == [np.int64, np.float32, np.int64]
        return [part.tobytes() for part in found]


def links_between(items: int, k: int, seed: int, *, ties: bool) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Random links; a row has up to k of them, to distinct items, strongest first. `ties`: of few weights."""
    rng = np.random.default_rng(seed)
    k = min(k, items)
    neighbours = np.argsort(rng.random((items, items)), axis=1)[:, :k].astype(np.int32)
    weights = rng.choice([0.25, 0.5, 1.0], (items, k)) if ties else rng.random((items, k)) + 1e-6
    none = np.arange(k) >= rng.integers(0, k + 1, items)[:, None]
    return np.where(none, items, neighbours).astype(np.int32), np.where(none, 0, weights).astype(np.float32)


def question(items: int, seed: int) -> Asked:
    """A random history, some of it without weight; some rows excluded; in half the cases a filter."""
    rng = np.random.default_rng(seed)

    def some(most: int) -> NDArray[np.int64]:
        return np.sort(rng.choice(items, rng.integers(0, min(items, most) + 1), replace=False)).astype(np.int64)

    rows = some(20)
    weights = rng.choice([0.0, 0.1, 0.5, 1.0, 1e-30], len(rows)).astype(np.float32)
    passing = (rng.random(items) < 0.6).astype(np.uint8) if rng.random() < 0.5 else None
    return Asked(rows, weights, int(rng.integers(0, items + 3)), some(items), passing)


@given(
    items=st.integers(1, 60),
    k=st.integers(0, 12),
    seed=st.integers(0, 2**32 - 1),
    ties=st.booleans(),
    questions=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6),
)
def test_both_forms_find_the_same(items: int, k: int, seed: int, ties: bool, questions: list[int]) -> None:
    """One object answers all questions: nothing of one is left for the next."""
    arrays = links_between(items, k, seed, ties=ties)
    compiled, reference = make_links(*arrays), NumpyLinks(*arrays)
    assert type(compiled) is not type(reference)
    for one in questions:
        asked = question(items, one)
        assert asked.of(compiled) == asked.of(reference)


def test_equal_scores_come_in_order_of_row_and_the_first_of_equal_seeds_counts() -> None:
    neighbours = np.asarray([[3, 2, 1], [3, 2, 0], [4, 4, 4], [4, 4, 4]], np.int32)
    weights = np.asarray([[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]], np.float32)
    rows, ones = np.asarray([0, 1]), np.ones(2, np.float32)
    found = make_links(neighbours, weights).best(rows, ones, 3, excluded=np.empty(0, np.int64), passing=None)
    assert [part.tolist() for part in found] == [[2, 3, 0], [2, 2, 1], [0, 0, 1]]


def test_links_out_of_the_catalogue_are_none() -> None:
    """A damaged file must not reach foreign memory."""
    neighbours = np.asarray([[1, 2, -1, 2**31 - 1, -(2**31)]] * 2, np.int32)
    rows, ones = np.asarray([0]), np.ones(1, np.float32)
    found = make_links(neighbours, np.ones((2, 5), np.float32)).best(
        rows, ones, 9, excluded=np.empty(0, np.int64), passing=None
    )
    assert [part.tolist() for part in found] == [[1], [1], [0]]


def test_threads_do_not_disturb_each_other() -> None:
    arrays = links_between(2_000, 60, 0, ties=False)
    compiled, reference = make_links(*arrays), NumpyLinks(*arrays)
    questions = [question(2_000, seed) for seed in range(200)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda asked: asked.of(compiled), questions))
    assert found == [asked.of(reference) for asked in questions]
