"""Sorting in bounded memory gives what a stable sort of everything gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline.dataset.external_sort import INTERACTION, ExternalSorter, Records, repeated


def _records(timestamps: list[int]) -> Records:
    records = np.zeros(len(timestamps), dtype=INTERACTION)
    records["timestamp"] = timestamps
    records["user_id"] = np.arange(len(timestamps))
    return records


@pytest.mark.parametrize("rows_in_memory", [1, 10, 333, 10_000])
def test_order_is_that_of_a_stable_sort(tmp_path: Path, rows_in_memory: int) -> None:
    records = _records(np.random.default_rng(0).integers(0, 50, 2_000).tolist())
    sorter = ExternalSorter(tmp_path, rows_in_memory=rows_in_memory)
    for start in range(0, len(records), 300):
        sorter.add(records[start : start + 300])
    parts = list(sorter.sorted())
    assert len(sorter) == 2_000
    assert len(parts) > 1 or rows_in_memory == 10_000
    assert np.concatenate(parts).tolist() == records[np.argsort(records["timestamp"], kind="stable")].tolist()
    sorter.close()
    assert list(tmp_path.iterdir()) == []


def test_equal_times_stand_in_one_array(tmp_path: Path) -> None:
    sorter = ExternalSorter(tmp_path, rows_in_memory=4)
    sorter.add(_records([5, 1, 5, 9, 5, 5, 1, 5]))
    parts = [part["timestamp"].tolist() for part in sorter.sorted()]
    assert [time for part in parts for time in part] == [1, 1, 5, 5, 5, 5, 5, 9]
    assert sum(5 in part for part in parts) == 1
    assert len(parts) > 1


def test_ranges_are_of_about_equal_size(tmp_path: Path) -> None:
    sorter = ExternalSorter(tmp_path, rows_in_memory=1_000)
    sorter.add(_records(np.random.default_rng(1).permutation(10_000).tolist()))
    assert max(len(part) for part in sorter.sorted()) <= 1_000


def test_nothing_added_gives_nothing(tmp_path: Path) -> None:
    sorter = ExternalSorter(tmp_path, rows_in_memory=4)
    assert list(sorter.sorted()) == []


def test_closing_early_removes_temporary_files(tmp_path: Path) -> None:
    sorter = ExternalSorter(tmp_path, rows_in_memory=2)
    sorter.add(_records([3, 2, 1, 0]))
    next(sorter.sorted())
    sorter.close()
    assert list(tmp_path.iterdir()) == []


def test_only_rows_equal_in_every_column_are_repeated() -> None:
    records = np.array(
        [
            (1, 1, 1, 4.0, 1),
            (1, 1, 1, 4.0, 1),
            (1, 1, 1, 5.0, 1),
            (1, 1, 1, 4.0, 2),
            (1, 1, 1, np.nan, 1),
            (1, 1, 1, np.nan, 1),
            (2, 1, 1, 4.0, 1),
            (1, 2, 1, 4.0, 1),
            (1, 1, 2, 4.0, 1),
            (1, 1, 1, 4.0, 1),
        ],
        dtype=INTERACTION,
    )
    assert repeated(records).tolist() == [False, True, False, False, False, True, False, False, False, True]
