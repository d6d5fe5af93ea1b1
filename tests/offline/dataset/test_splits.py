"""Splits of toy worlds with known answers, and the published figures of the time-to-split protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from offline.dataset.interactions import Dataset, Interactions, Items
from offline.dataset.splits import SplitConfig, Window, iterative_core, split
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.ingest import ingest
from recsys.errors import DataError

REBUILT = Path(__file__).parents[4] / "shared" / "data" / "ml-1m-rebuilt"


def events_of(users: list[int], items: list[int], times: list[int] | None = None) -> Interactions:
    n = len(users)
    return Interactions(
        np.asarray(users, np.int64),
        np.asarray(items, np.int64),
        np.arange(n, dtype=np.int64) if times is None else np.asarray(times, np.int64),
        np.ones(n, np.int8),
        np.ones(n, np.float32),
    )


def dataset_of(events: Interactions) -> Dataset:
    ids = np.unique(events.item_ids)
    n = len(ids)
    texts = np.asarray([str(item) for item in ids], object)
    genres, unknown = np.zeros((n, 0), np.bool_), np.full(n, np.nan, np.float32)
    items = Items(ids, texts, texts, np.zeros(n, np.int16), np.zeros(n, np.int64), genres, (), None, unknown, unknown)
    return Dataset("toy", events, items)


def test_cuts_at_quantiles_of_time() -> None:
    parts = split(dataset_of(events_of([1] * 101, [1] * 101)), SplitConfig())
    assert parts.earlier_cutoffs == (50, 60, 70)
    assert parts.validation == Window(80, 90)
    assert parts.test == Window(90, 100)
    assert parts.cutoffs == (50, 60, 70, 80, 90)


def test_labels_end_at_the_moment_that_is_known() -> None:
    parts = split(dataset_of(events_of([1] * 101, [1] * 101)), SplitConfig(windows=(0.6, 0.7)))
    assert parts.labelled_until(80) == (Window(60, 80), Window(70, 80))
    assert parts.labelled_until(90) == (Window(60, 90), Window(70, 90), Window(80, 90))
    assert parts.labelled_until(100)[-1] == Window(90, 100)


def test_every_event_is_in_training_validation_or_test() -> None:
    rng = np.random.default_rng(0)
    events = events_of([1] * 500, [1] * 500, sorted(rng.integers(0, 60, 500).tolist()))
    parts = split(dataset_of(events), SplitConfig())
    counts = [len(events.between(window.cutoff, window.until)) for window in (parts.validation, parts.test)]
    assert len(events.until(parts.validation.cutoff)) + sum(counts) == 500
    assert min(counts) > 0


def test_cutoffs_on_one_moment_are_joined() -> None:
    times = [0] * 65 + list(range(1, 37))
    parts = split(dataset_of(events_of([1] * 101, [1] * 101, times)), SplitConfig())
    assert parts.cutoffs == (0, 6, 16, 26)


@pytest.mark.parametrize(("users", "windows"), [(0, 0), (1, 1), (5, 1), (6, 2), (10, 2), (11, 3), (3_000, 3)])
def test_a_window_is_left_out_where_later_ones_have_enough_users(users: int, windows: int) -> None:
    """Users 1 to 5 are there all the time, so each window has five; others come once and do not count."""
    known = [1 + number % 5 if number % 2 else 100 + number for number in range(200)]
    dataset = dataset_of(events_of(known, [1] * 200, list(range(200))))
    found = split(dataset, SplitConfig(enough_users=users))
    assert found.earlier_cutoffs == (99, 119, 139)[3 - windows :]
    expected = f"ranker: a sample, the latest {windows} of 3 windows before T1"
    assert found.sampled == ((expected,) if windows < 3 else ())


def test_data_of_one_moment_cannot_be_split() -> None:
    with pytest.raises(DataError, match="three different moments"):
        split(dataset_of(events_of([1] * 9, [1] * 9, [5] * 9)), SplitConfig())
    with pytest.raises(DataError, match="no events"):
        split(dataset_of(events_of([], [])), SplitConfig())


@pytest.mark.parametrize("fractions", [{"windows": (0.9,)}, {"validation": 0.95}, {"windows": (0.0,)}, {"test": 1.0}])
def test_fractions_must_ascend(fractions: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SplitConfig.model_validate(fractions)


def test_the_core_is_taken_until_nothing_changes() -> None:
    """Item 3 loses its second user first, then user 3 its second item."""
    events = events_of([1, 1, 2, 2, 3, 3, 4], [1, 2, 1, 2, 1, 3, 3])
    core = iterative_core(events, 2)
    assert core.user_ids.tolist() == [1, 1, 2, 2]
    assert core.item_ids.tolist() == [1, 2, 1, 2]
    assert core.timestamps.tolist() == [0, 1, 2, 3]
    assert len(iterative_core(events, 9)) == 0


@pytest.mark.realdata
@pytest.mark.skipif(not REBUILT.is_dir(), reason="../shared/data/ml-1m-rebuilt is not here")
def test_time_to_split_has_the_published_sizes(tmp_path: Path) -> None:
    ingest(open_dataset("ml-1m", REBUILT), tmp_path / "tables")
    dataset = replace(Dataset.load("ml-1m", tmp_path / "tables"), name="ml-1m-rebuilt")
    parts = split(dataset, SplitConfig(protocol="time-to-split"))
    events = parts.dataset.interactions
    test = events.between(parts.test.cutoff, parts.test.until)
    before = np.unique(events.until(parts.test.cutoff).user_ids)
    users = np.unique(test.user_ids)
    assert (len(np.unique(events.user_ids)), len(np.unique(events.item_ids)), len(events)) == (6_040, 3_416, 999_611)
    assert len(parts.dataset.items.item_ids) == 3_416
    assert parts.test.cutoff == 978_132_488
    assert len(parts.earlier_cutoffs) == 3, "no window may be missed in a log of this size"
    assert (len(test), len(users), int(np.isin(users, before).sum())) == (99_961, 1_209, 1_180)
