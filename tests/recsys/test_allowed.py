"""What a query may get, against a mask of the whole catalogue."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from recsys.allowed import Allowed, CompiledFilter, RowOrder, first_allowed


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Allowed, np.ndarray]:
    """Rows that are allowed, and the same as bool[items]; filters let through much, little, or nothing."""
    items = draw(st.integers(1, 60))
    mask = np.ones(items, np.bool_)
    passing = None
    if draw(st.booleans()):
        share = draw(st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]))
        mask = np.random.default_rng(draw(st.integers(0, 99))).random(items) < share
        passing = CompiledFilter.of(mask.copy())
    excluded = sorted(draw(st.sets(st.integers(0, items - 1))))
    mask[excluded] = False
    return Allowed(items, passing, np.asarray(excluded, np.int64)), mask


@given(worlds())
def test_it_says_the_same_as_a_mask(world: tuple[Allowed, np.ndarray]) -> None:
    allowed, mask = world
    rows = np.random.default_rng(0).integers(0, len(mask), 40)
    assert_array_equal(allowed.passes(rows), mask[rows])
    ascending = np.unique(rows)
    assert_array_equal(allowed.among(ascending), ascending[mask[ascending]])
    assert len(allowed.among(rows[:0])) == 0
    assert_array_equal(allowed.rows(), np.flatnonzero(mask))
    assert allowed.rows().dtype == np.int64
    assert allowed.count == mask.sum()
    scores = np.ones(len(mask), np.float32)
    allowed.forbid(scores, -np.inf)
    assert_array_equal(scores > 0, mask)
    assert allowed.everything <= bool(mask.all())


@given(worlds(), st.integers(0, 70), st.integers(0, 99), st.data())
def test_an_order_gives_its_first_allowed_rows(
    world: tuple[Allowed, np.ndarray], count: int, seed: int, data: st.DataObject
) -> None:
    """Of all rows or of some, by reading it and by sorting positions."""
    allowed, mask = world
    order = np.random.default_rng(seed).permutation(len(mask))[: data.draw(st.integers(0, len(mask)))]
    expected = np.flatnonzero(mask[order])[:count]
    assert_array_equal(RowOrder(order, len(mask)).first(allowed, count), expected)
    assert_array_equal(first_allowed(order, allowed, count), expected)


class _Read(np.ndarray):
    """Rows that count how many of them were read."""

    read = 0

    def __getitem__(self, index: object) -> np.ndarray:
        part = np.asarray(self).__getitem__(index)
        type(self).read += np.size(part)
        return part


@pytest.mark.parametrize(("share", "limit"), [(None, 130), (0.5, 600), (0.02, 10_000)])
def test_it_reads_no_more_of_an_order_than_it_needs(share: float | None, limit: int) -> None:
    items = 100_000
    mask = np.random.default_rng(0).random(items) < (share or 1)
    passing = None if share is None else CompiledFilter.of(mask)
    allowed = Allowed(items, passing, np.arange(30))
    rows = np.arange(items).view(_Read)
    _Read.read = 0
    found = first_allowed(rows, allowed, 100)
    assert len(found) == 100
    assert 0 < _Read.read <= limit


@pytest.mark.parametrize(("share", "listed"), [(0.0, True), (0.1, True), (0.2, False), (1.0, False)])
def test_the_rows_of_a_narrow_filter_are_listed(share: float, listed: bool) -> None:
    mask = np.zeros(1_000, np.bool_)
    mask[: int(1_000 * share)] = True
    compiled = CompiledFilter.of(mask)
    assert (compiled.listed is not None) == listed
    assert compiled.nbytes <= 1_000 * 1.5
    assert compiled.rows().tolist() == list(range(int(1_000 * share)))
