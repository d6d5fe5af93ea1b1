"""The id table: numbers are themselves, other keys get theirs once and for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.dataset.ids import IdTable
from recsys.errors import DataMalformed, NotFound
from recsys.identity import FIRST_ASSIGNED, MAX_KEY_BYTES

NUMBERS = ["0", "7", "42", "9007199254740991"]
NAMES = ["007", "-1", "+1", "1.0", " 1", "1 ", "1\n", "", "9007199254740992", "9" * 20, "٣", "tt0111161", "Ä"]
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20) | st.integers(0, 2**60).map(str)


def test_canonical_integers_are_their_own_numbers() -> None:
    ids = IdTable()
    assert ids.numbers(pa.array(NUMBERS)).tolist() == [0, 7, 42, 2**53 - 1]
    assert len(ids) == 0
    assert [ids.number(key) for key in NUMBERS] == [0, 7, 42, 2**53 - 1]
    assert [ids.key(number) for number in (0, 7, 42, 2**53 - 1)] == NUMBERS


def test_other_keys_are_numbered_in_order_of_first_appearance() -> None:
    ids = IdTable()
    names = [name for name in NAMES if name]
    assert ids.numbers(pa.array([*names, "5", *reversed(names)])).tolist() == [
        *range(FIRST_ASSIGNED, FIRST_ASSIGNED + len(names)),
        5,
        *reversed(range(FIRST_ASSIGNED, FIRST_ASSIGNED + len(names))),
    ]
    assert [ids.number(name) for name in names] == list(range(FIRST_ASSIGNED, FIRST_ASSIGNED + len(names)))
    assert ids.number("never seen") is None


def test_chunks_are_one_sequence() -> None:
    ids = IdTable()
    chunked = pa.chunked_array([["b", "1"], [], ["a", "b"]], pa.string())
    assert ids.numbers(chunked).tolist() == [FIRST_ASSIGNED, 1, FIRST_ASSIGNED + 1, FIRST_ASSIGNED]
    assert ids.numbers(pa.chunked_array([], pa.string())).tolist() == []


def test_numbers_never_change_their_meaning(tmp_path: Path) -> None:
    first = IdTable()
    first.numbers(pa.array(["ann", "bob"]))
    first.save(tmp_path / "ids.parquet")
    second = IdTable.load(tmp_path / "ids.parquet")
    assert second.numbers(pa.array(["cay", "bob", "ann"])).tolist() == [
        FIRST_ASSIGNED + 2,
        FIRST_ASSIGNED + 1,
        FIRST_ASSIGNED,
    ]
    second.save(tmp_path / "ids.parquet")
    saved = pq.read_table(tmp_path / "ids.parquet")
    assert saved.to_pydict() == {"id": [FIRST_ASSIGNED + row for row in range(3)], "key": ["ann", "bob", "cay"]}


def test_an_absent_table_is_empty(tmp_path: Path) -> None:
    assert len(IdTable.load(tmp_path / "none.parquet")) == 0


def test_many_numbers_become_keys_again() -> None:
    ids = IdTable(["ann", "bob"])
    numbers = np.array([3, FIRST_ASSIGNED + 1, 0, FIRST_ASSIGNED], np.int64)
    assert ids.keys(numbers).to_pylist() == ["3", "bob", "0", "ann"]


@pytest.mark.parametrize("number", [-1, FIRST_ASSIGNED + 1])
def test_a_number_never_given_has_no_key(number: int) -> None:
    with pytest.raises(NotFound, match=str(number)):
        IdTable(["ann"]).key(number)


@pytest.mark.parametrize("key", ["", None, "x" * (MAX_KEY_BYTES + 1), "ä" * (MAX_KEY_BYTES // 2 + 1)])
def test_unusable_keys_are_refused_before_any_number_is_given(key: str | None) -> None:
    ids = IdTable()
    with pytest.raises(DataMalformed, match=r"empty|at most 256"):
        ids.numbers(pa.array(["fine", key]))
    assert len(ids) == 0


def test_the_longest_key_is_allowed() -> None:
    assert IdTable().numbers(pa.array(["x" * MAX_KEY_BYTES])).tolist() == [FIRST_ASSIGNED]


@given(st.lists(KEYS, max_size=30))
def test_vectorised_and_single_rules_agree(keys: list[str]) -> None:
    ids = IdTable()
    numbers = ids.numbers(pa.array(keys, pa.string())).tolist()
    assert [ids.number(key) for key in keys] == numbers
    assert [ids.key(number) for number in numbers] == keys
    assert ids.keys(np.asarray(numbers, np.int64)).to_pylist() == keys


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"id": [FIRST_ASSIGNED, FIRST_ASSIGNED + 2], "key": ["a", "b"]}, "without a gap"),
        ({"id": [FIRST_ASSIGNED, FIRST_ASSIGNED + 1], "key": ["a", "a"]}, "twice"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, table: dict[str, list[object]], expected: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "ids.parquet")
    with pytest.raises(DataMalformed, match=expected):
        IdTable.load(tmp_path / "ids.parquet")


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ids.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataMalformed, match=r"ids\.parquet: the id table cannot be read"):
        IdTable.load(tmp_path / "ids.parquet")
