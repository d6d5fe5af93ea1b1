"""Credits of items: who did what, in the order in which they are billed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from recsys.catalogue import Catalogue
from recsys.errors import BundleMismatch
from recsys.people import People, Role

# item 0: directed by 70, with 50 and 60; item 1: nobody; item 2: directed by 50 and 60, with 50, written by 70
PEOPLE = People(
    np.asarray([0, 3, 3, 7], np.int64),
    np.asarray([2, 0, 1, 0, 1, 0, 2], np.int32),
    np.asarray([1, 2, 2, 1, 1, 2, 3], np.int8),
    np.asarray([50, 60, 70], np.int64),
)
CATALOGUE = Catalogue(
    np.asarray([10, 20, 30], np.int64), np.zeros(3, np.int16), np.zeros((3, 0), np.bool_), (), people=PEOPLE
)


def credits_of(people: People) -> list[list[tuple[int, int]]]:
    """(person id, role) of each credit, per item."""
    pairs = list(zip(people.person_ids[people.person_rows].tolist(), people.roles.tolist(), strict=True))
    return [pairs[start:end] for start, end in zip(people.indptr[:-1], people.indptr[1:], strict=True)]


def test_every_credit_knows_its_item() -> None:
    assert PEOPLE.item_rows.tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert len(PEOPLE) == 3


def test_credits_of_a_role_keep_items_and_people() -> None:
    assert credits_of(PEOPLE.only(Role.DIRECTOR)) == [[(70, 1)], [], [(50, 1), (60, 1)]]
    assert credits_of(PEOPLE.only(Role.CAST, Role.WRITER)) == [[(50, 2), (60, 2)], [], [(50, 2), (70, 3)]]
    assert PEOPLE.only(Role.WRITER).person_ids.tolist() == [50, 60, 70]


def test_the_first_of_each_role_are_kept_in_order() -> None:
    assert credits_of(PEOPLE.first(1)) == [[(70, 1), (50, 2)], [], [(50, 1), (50, 2), (70, 3)]]
    assert credits_of(PEOPLE.first(2)) == credits_of(PEOPLE)


@pytest.mark.parametrize("chosen", [np.asarray([True, True, False]), np.asarray([0, 1], np.int64)])
def test_chosen_items_bring_their_people_and_nobody_else(chosen: np.ndarray) -> None:
    taken = PEOPLE.take(chosen)
    assert taken is not None
    assert credits_of(taken) == [[(70, 1), (50, 2), (60, 2)], []]
    only_last = PEOPLE.only(Role.CAST).take(np.asarray([2, 0], np.int64))
    assert only_last is not None
    assert credits_of(only_last) == [[(50, 2)], [(50, 2), (60, 2)]]
    assert only_last.person_ids.tolist() == [50, 60]


def test_items_without_credits_leave_no_trace() -> None:
    assert PEOPLE.take(np.asarray([False, True, False])) is None


def test_a_catalogue_brings_its_people_and_measures_back_from_disk(tmp_path: Path) -> None:
    runtimes = np.asarray([90, np.nan, 120], np.float32)
    replace(CATALOGUE, runtimes=runtimes).save(tmp_path)
    found = Catalogue.load(tmp_path)
    assert found.people is not None
    for name in ("indptr", "person_rows", "roles", "person_ids"):
        assert_array_equal(getattr(found.people, name), getattr(PEOPLE, name))
        assert getattr(found.people, name).dtype == getattr(PEOPLE, name).dtype
    assert found.runtimes is not None
    assert_array_equal(found.runtimes, runtimes)
    assert found.budgets is None


def test_a_catalogue_without_people_has_no_file_of_them(tmp_path: Path) -> None:
    replace(CATALOGUE, people=None).save(tmp_path)
    assert sorted(path.name for path in (tmp_path / "catalogue").iterdir()) == [
        "genre_names.json",
        "genres.npy",
        "item_ids.npy",
        "years.npy",
    ]
    assert Catalogue.load(tmp_path).people is None


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (replace(PEOPLE, indptr=PEOPLE.indptr[:-1]), "credits of 2 items"),
        (replace(PEOPLE, roles=PEOPLE.roles[:-1]), "7 people rows and 6 roles; expected 3 items and 7 of each"),
        (replace(PEOPLE, person_rows=PEOPLE.person_rows + 1), "person rows run from 1 to 3, expected 0 to 2"),
    ],
)
def test_people_that_do_not_fit_are_refused(tmp_path: Path, broken: People, found: str) -> None:
    replace(CATALOGUE, people=broken).save(tmp_path)
    with pytest.raises(BundleMismatch, match=found):
        Catalogue.load(tmp_path)


def test_measures_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    replace(CATALOGUE, budgets=np.zeros(2, np.float32)).save(tmp_path)
    with pytest.raises(BundleMismatch, match=r"budgets\.npy: \[2\] values, expected one for each of 3 items"):
        Catalogue.load(tmp_path)
