"""The search for inner products: when the index is asked, how wide, and that answers are those of a scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from recall_server.channels.nearest import EXACT_ROWS, SCAN_WIDTH, ItemSearch
from recsys.allowed import Allowed, CompiledFilter
from tests.recall_server.indexes import PerfectGraph, Vectors

MANY = 8 * EXACT_ROWS
WIDTH = SCAN_WIDTH


def vectors_of(items: int, dim: int = 4, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).normal(size=(items, dim)).astype(np.float32)


def graph_of(vectors: Vectors, *, reaches: int | None = None) -> PerfectGraph:
    return PerfectGraph(vectors, np.arange(len(vectors)), reaches)


@pytest.fixture(scope="module")
def many() -> Vectors:
    return vectors_of(MANY)


def passing(items: int, every: int) -> CompiledFilter:
    """A filter that lets one row of `every` through, spread evenly."""
    return CompiledFilter.of(np.arange(items) % every == 0)


@st.composite
def questions(draw: st.DrawFn) -> tuple[Vectors, np.ndarray | None, list[int], list[Allowed]]:
    """A small catalogue, with equal vectors and unknown items, and a batch of any filters, exclusions and counts."""
    items, rng = draw(st.integers(1, 80)), np.random.default_rng(draw(st.integers(0, 999)))
    vectors = rng.integers(-2, 3, (items, 3)).astype(np.float32)
    unknown = rng.random(items) < 0.3 if draw(st.booleans()) else None
    counts, allowed = [], []
    for _ in range(draw(st.integers(1, 4))):
        counts.append(draw(st.integers(1, 90)))
        share = draw(st.sampled_from([None, 0.0, 0.1, 0.7]))
        compiled = None if share is None else CompiledFilter.of(rng.random(items) < share)
        excluded = np.flatnonzero(rng.random(items) < draw(st.sampled_from([0.0, 0.1, 0.9, 1.0])))
        allowed.append(Allowed(items, compiled, excluded))
    return vectors, unknown, counts, allowed


@given(questions(), st.sampled_from([None, 0, 3, 20]), st.sampled_from([1, 8, 512]), st.sampled_from([0, 400, 10_000]))
def test_answers_are_those_of_a_scan_whatever_the_index_returns(
    question: tuple[Vectors, np.ndarray | None, list[int], list[Allowed]],
    reaches: int | None,
    width: int,
    exact_rows: int,
) -> None:
    vectors, unknown, counts, allowed = question
    known = np.arange(len(vectors)) if unknown is None else np.flatnonzero(~unknown)
    users = np.random.default_rng(1).integers(-2, 3, (len(counts), 3)).astype(np.float32)
    graph = PerfectGraph(vectors, known, reaches)
    search = ItemSearch(vectors, unknown, graph.index(width), exact_rows)
    together = search.best(users, counts, allowed)
    for user, count, own, (rows, scores) in zip(users, counts, allowed, together, strict=True):
        may = known[own.passes(known)]
        expected = np.sort(vectors[may] @ user)[::-1][:count]
        assert_array_equal(scores, expected)
        assert_array_equal(vectors[rows] @ user, scores)
        assert np.isin(rows, may).all()
        assert_array_equal(np.lexsort((rows, -scores)), np.arange(len(rows)))
        [(alone, alone_scores)] = search.best(user[None], [count], [own])
        assert_array_equal(alone, rows)
        assert_array_equal(alone_scores, scores)


@pytest.mark.parametrize(
    ("count", "excluded", "every", "widths"),
    [
        (100, 0, 1, [WIDTH]),
        (300, 212, 1, [WIDTH]),
        (300, 213, 1, [2 * WIDTH]),
        (100, 900, 1, [2 * WIDTH]),
        (100, 2_000, 1, []),
        (100, 0, 2, [WIDTH]),
        (200, 0, 3, [2 * WIDTH]),
        (100, 0, 8, []),
    ],
    ids=[
        "everything",
        "as many as may be found",
        "one excluded item more",
        "many seen items",
        "a scan costs less than so wide a search",
        "half of the items",
        "a third of the items",
        "so few items that a scan costs no more",
    ],
)
def test_the_search_is_as_wide_as_the_query_needs(
    many: Vectors, count: int, excluded: int, every: int, widths: list[int]
) -> None:
    graph, user = graph_of(many), vectors_of(1, seed=3)
    seen = np.sort(np.argsort(-(many @ user[0]))[:excluded])
    own = Allowed(MANY, None if every == 1 else passing(MANY, every), seen)
    [(rows, scores)] = ItemSearch(many, index=graph.index(WIDTH)).best(user, [count], [own])
    assert [width for _, width in graph.asked] == widths
    [(expected, expected_scores)] = ItemSearch(many).best(user, [count], [own])
    assert_array_equal(rows, expected)
    assert_allclose(scores, expected_scores, rtol=1e-6)


def test_a_search_is_repeated_wider_where_too_few_of_what_it_finds_are_allowed(many: Vectors) -> None:
    """The user's favourites do not pass the filter, so that it lets less through than its share says."""
    graph, user = graph_of(many), vectors_of(1, seed=3)
    mask = np.arange(MANY) % 3 > 0
    mask[np.argsort(-(many @ user[0]))[: WIDTH + 1]] = False
    own = Allowed(MANY, CompiledFilter.of(mask))
    [(rows, _)] = ItemSearch(many, index=graph.index(WIDTH)).best(user, [100], [own])
    assert graph.asked == [(1, WIDTH), (1, 2 * WIDTH)]
    assert_array_equal(rows, ItemSearch(many).best(user, [100], [own])[0][0])


def test_searches_of_one_width_are_one_call(many: Vectors) -> None:
    graph, users = graph_of(many), vectors_of(5, seed=3)
    everything = Allowed(MANY)
    found = ItemSearch(many, index=graph.index(WIDTH)).best(users, [100, 600, 100, 600, 100], [everything] * 5)
    assert graph.asked == [(3, WIDTH), (2, 2 * WIDTH)]
    assert [len(rows) for rows, _ in found] == [100, 600, 100, 600, 100]


def test_a_graph_that_reaches_too_few_items_costs_only_speed(many: Vectors) -> None:
    graph, users = graph_of(many, reaches=700), vectors_of(2, seed=3)
    found = ItemSearch(many, index=graph.index(WIDTH)).best(users, [100, 600], [Allowed(MANY)] * 2)
    for (rows, _), (expected, _) in zip(
        found, ItemSearch(many).best(users, [100, 600], [Allowed(MANY)] * 2), strict=True
    ):
        assert_array_equal(rows, expected)


def test_a_small_catalogue_is_scanned() -> None:
    vectors = vectors_of(EXACT_ROWS)
    graph = graph_of(vectors)
    search = ItemSearch(vectors, index=graph.index(WIDTH))
    search.best(vectors_of(1), [10], [Allowed(EXACT_ROWS)])
    assert graph.asked == []
    replace(search, exact_rows=EXACT_ROWS - 1).best(vectors_of(1), [10], [Allowed(EXACT_ROWS)])
    assert graph.asked == [(1, WIDTH)]


def test_what_a_query_is_asked_as_does_not_depend_on_its_batch() -> None:
    rng = np.random.default_rng(0)
    users, query_map = vectors_of(33, 16), rng.normal(size=(16, 16)).astype(np.float32)
    index = replace(graph_of(vectors_of(9, 17)).index(WIDTH), query_map=query_map)
    together = index.queries(users)
    assert together.shape == (33, 17)
    assert not together[:, -1].any()
    for at in range(len(users)):
        assert_array_equal(index.queries(users[at : at + 1])[0], together[at])
