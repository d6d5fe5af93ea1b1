from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from recsys.catalogue import NO_YEAR, Catalogue, ItemTexts
from recsys.domain import NO_FILTER, NO_IDS, ItemFilter
from recsys.errors import InvalidRequest

CATALOGUE = Catalogue(
    np.asarray([10, 20, 30, 40], np.int64),
    np.asarray([1990, 2000, NO_YEAR, 2010], np.int16),
    np.asarray([[True, False], [True, True], [False, True], [False, False]]),
    ("Drama", "War"),
)


def ids(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def test_rows_of_ids_are_found_and_unknown_ids_are_minus_one() -> None:
    assert CATALOGUE.rows(ids(30, 5, 10, 99, 25, 30)).tolist() == [2, -1, 0, -1, -1, 2]
    assert CATALOGUE.known_rows(ids(99, 40, 5, 10)).tolist() == [3, 0]
    assert CATALOGUE.rows(NO_IDS).tolist() == []


@given(
    known=st.sets(st.integers(0, 40) | st.integers(0, 2**62), min_size=1, max_size=30),
    queried=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 45), max_size=40),
)
def test_rows_are_found_whether_ids_are_close_or_far_apart(known: set[int], queried: list[int]) -> None:
    ordered = sorted(known)
    items = Catalogue(ids(*ordered), np.zeros(len(known), np.int16), np.zeros((len(known), 0), np.bool_), ())
    row_of = {item_id: row for row, item_id in enumerate(ordered)}
    asked = [*queried, *ordered]
    assert items.rows(ids(*asked)).tolist() == [row_of.get(item_id, -1) for item_id in asked]
    assert items.rows(ids(*asked)).dtype == np.int64


def test_an_empty_catalogue_knows_nothing() -> None:
    empty = Catalogue(NO_IDS, np.empty(0, np.int16), np.empty((0, 0), np.bool_), ())
    assert empty.rows(ids(1, 2)).tolist() == [-1, -1]
    assert len(empty) == 0


def test_no_filter_and_nothing_excluded_allows_everything() -> None:
    assert CATALOGUE.allowed(NO_FILTER, NO_IDS).everything
    assert CATALOGUE.allowed(NO_FILTER, ids(7, 8)).everything
    assert not CATALOGUE.allowed(NO_FILTER, ids(7, 10)).everything


@pytest.mark.parametrize(
    ("item_filter", "excluded", "allowed"),
    [
        (NO_FILTER, (20, 99), [10, 30, 40]),
        (ItemFilter(genres_any=("Drama",)), (), [10, 20]),
        (ItemFilter(genres_any=("Drama", "War")), (10,), [20, 30]),
        (ItemFilter(genres_none=("War",)), (), [10, 40]),
        (ItemFilter(genres_any=("Drama",), genres_none=("War",)), (), [10]),
        (ItemFilter(min_year=2000), (), [20, 40]),
        (ItemFilter(max_year=2000), (), [10, 20]),
        (ItemFilter(min_year=-(2**31), max_year=2**31 - 1), (), [10, 20, 40]),
        (ItemFilter(min_year=2001, max_year=2009), (), []),
    ],
)
def test_filters_let_through_what_they_say(
    item_filter: ItemFilter, excluded: tuple[int, ...], allowed: list[int]
) -> None:
    found = CATALOGUE.allowed(item_filter, ids(*excluded))
    assert CATALOGUE.item_ids[found.rows()].tolist() == allowed
    assert CATALOGUE.item_ids[found.passes(np.arange(4))].tolist() == allowed
    assert found.count == len(allowed)


def test_a_filter_is_tested_on_given_rows_as_on_all() -> None:
    item_filter = ItemFilter(genres_any=("War",), max_year=2005)
    assert CATALOGUE.passes(item_filter, slice(None)).tolist() == [False, True, False, False]
    assert CATALOGUE.passes(item_filter, ids(3, 1, 1)).tolist() == [False, True, True]


def test_a_filter_is_compiled_once_and_cannot_be_changed() -> None:
    first = CATALOGUE.compiled(ItemFilter(min_year=2000))
    assert first is not None
    assert CATALOGUE.compiled(ItemFilter(min_year=2000)) is first
    assert CATALOGUE.compiled(ItemFilter(min_year=2001)) is not first
    assert CATALOGUE.compiled(NO_FILTER) is None
    with pytest.raises(ValueError, match="read-only"):
        first.mask[0] = True


@pytest.mark.parametrize("field", ["genres_any", "genres_none"])
def test_an_unknown_genre_is_named_with_the_known_ones(field: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"filter\.{field}: unknown genre 'Opera'; this bundle knows: Drama, War"):
        CATALOGUE.allowed(ItemFilter(**{field: ("Drama", "Opera")}), NO_IDS)
    with pytest.raises(InvalidRequest, match="unknown genre 'Opera'"):
        CATALOGUE.passes(ItemFilter(**{field: ("Drama", "Opera")}), NO_IDS)


def test_a_catalogue_and_its_texts_survive_the_disk(tmp_path: Path) -> None:
    CATALOGUE.save(tmp_path)
    found = Catalogue.load(tmp_path)
    for name in ("item_ids", "years", "genres"):
        assert_array_equal(getattr(found, name), getattr(CATALOGUE, name))
        assert getattr(found, name).dtype == getattr(CATALOGUE, name).dtype
    assert found.genre_names == CATALOGUE.genre_names
    keys, titles = ["a", "b", "", "ü"], ["A", "B", "", "Ü, the film"]
    ItemTexts.of(keys, titles).save(tmp_path)
    texts = ItemTexts.load(tmp_path)
    assert (list(texts.keys), list(texts.titles)) == (keys, titles)
