"""The generated data set has the shape and the signals that it promises, and is the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from offline.dataset.tables import read_table
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.demo.catalogue import GENRES
from offline.ingest.ingest import ingest
from offline.ingest.inputs import IngestInputs
from offline.ingest.prepare import prepare_tables
from offline.ingest.synthetic.catalogue import DAYS, SECONDS_PER_DAY, START
from offline.ingest.synthetic.shape import LEAST_PER_USER, Shape, draw_counts
from offline.ingest.synthetic.world import GeneratedRatings, SyntheticWorld
from recsys.errors import InvalidRequest

FINGERPRINT = """
import hashlib
from offline.ingest.synthetic.shape import Shape
from offline.ingest.synthetic.world import SyntheticWorld
digest = hashlib.sha256()
for part in SyntheticWorld(Shape.of(20_000)).ratings():
    for column in (part.user_ids, part.item_ids, part.timestamps, part.values):
        digest.update(column.tobytes())
print(digest.hexdigest())
"""


def _all(world: SyntheticWorld) -> GeneratedRatings:
    parts = list(world.ratings())
    names = ("user_ids", "item_ids", "timestamps", "values")
    return GeneratedRatings(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@pytest.fixture(scope="module")
def world() -> SyntheticWorld:
    return SyntheticWorld(Shape.of(800_000))


@pytest.fixture(scope="module")
def ratings(world: SyntheticWorld) -> GeneratedRatings:
    return _all(world)


class TestShape:
    def test_it_is_that_of_movielens(self) -> None:
        assert Shape.of(32_000_000) == Shape(32_000_000, 200_000, 87_000)
        assert 3_500 < Shape.of(1_000_000).items < 4_000
        with pytest.raises(InvalidRequest, match="rows is 9999, expected at least 10000"):
            Shape.of(9_999)

    @pytest.mark.parametrize("rows", [10_000, 123_457, 3_000_000])
    def test_counts_add_up(self, rows: int) -> None:
        shape = Shape.of(rows)
        counts = draw_counts(np.random.default_rng(3), shape)
        assert (counts.sum(), len(counts)) == (rows, shape.users)
        assert LEAST_PER_USER <= counts.min() <= counts.max() <= shape.most_per_user

    def test_long_tails(self, world: SyntheticWorld, ratings: GeneratedRatings) -> None:
        """MovieLens 32M: users have 20 to 33 thousand ratings, 73 in the median, 160 in the mean."""
        of_users = np.bincount(ratings.user_ids)[1:]
        assert 60 < np.median(of_users) < 85
        assert of_users.max() > 1_000
        of_items = np.sort(np.bincount(ratings.item_ids, minlength=len(world.items) + 1)[1:])[::-1]
        assert np.median(of_items) < of_items.mean() * 0.7
        assert of_items[: len(of_items) // 10].sum() > 0.3 * of_items.sum()


class TestRatings:
    def test_ranges_and_order(self, world: SyntheticWorld, ratings: GeneratedRatings) -> None:
        assert len(ratings.values) == world.shape.rows
        assert np.unique(ratings.user_ids).tolist() == list(range(1, world.shape.users + 1))
        assert 1 <= ratings.item_ids.min() <= ratings.item_ids.max() <= world.shape.items
        assert np.unique(ratings.values).tolist() == [step / 2 for step in range(1, 11)]
        assert START <= ratings.timestamps.min() <= ratings.timestamps.max() < START + DAYS * SECONDS_PER_DAY
        order = np.lexsort((ratings.timestamps, ratings.user_ids))
        assert np.array_equal(ratings.timestamps[order], ratings.timestamps)

    def test_nobody_rates_twice_or_too_early(self, world: SyntheticWorld, ratings: GeneratedRatings) -> None:
        pairs = ratings.user_ids * (world.shape.items + 1) + ratings.item_ids
        assert len(np.unique(pairs)) == len(pairs)
        days = (ratings.timestamps - START) / SECONDS_PER_DAY
        assert (days >= world.items.arrivals[ratings.item_ids - 1] - 1e-3).all()
        assert world.items.arrivals.max() > DAYS / 2, "some arrive late, so that this says something"

    def test_users_stay_for_a_day_or_for_years(self, world: SyntheticWorld, ratings: GeneratedRatings) -> None:
        starts = np.searchsorted(ratings.user_ids, np.arange(1, world.shape.users + 1))
        ends = np.searchsorted(ratings.user_ids, np.arange(1, world.shape.users + 1), side="right") - 1
        years = (ratings.timestamps[ends] - ratings.timestamps[starts]) / (365 * SECONDS_PER_DAY)
        assert 0.2 < (years < 2 / 365).mean() < 0.4
        assert (years > 1).mean() > 0.3

    def test_taste_is_a_signal_and_drifts(self, world: SyntheticWorld, ratings: GeneratedRatings) -> None:
        """Items of one user are nearer each other than those of two users, and most so where they are near in time."""
        vectors, counts = world.items.vectors[ratings.item_ids - 1], np.bincount(ratings.user_ids)[ratings.user_ids]
        rng = np.random.default_rng(0)
        first = rng.choice(np.flatnonzero(counts <= 60), 200_000)
        begins = np.searchsorted(ratings.user_ids, ratings.user_ids[first])
        second = begins + (rng.random(len(first)) * counts[first]).astype(np.int64)
        first, second = first[first != second], second[first != second]
        years = np.abs(ratings.timestamps[first] - ratings.timestamps[second]) / (365 * SECONDS_PER_DAY)

        def nearness(others: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]) -> float:
            return float(np.einsum("nd,nd->n", vectors[first], vectors[others])[chosen].mean())

        of_another_user = nearness(rng.integers(len(vectors), size=len(first)), years >= 0)
        years_apart, close = nearness(second, years > 3), nearness(second, years < 0.1)
        assert of_another_user + 0.03 < years_apart
        assert years_apart + 0.05 < close


class TestDeterminism:
    def test_processes_agree(self) -> None:
        hashes = set()
        for number in ("1", "2"):
            environment = {**os.environ, "PYTHONHASHSEED": number, "OPENBLAS_NUM_THREADS": number}
            environment["PYTHONPATH"] = os.pathsep.join(sys.path)
            done = subprocess.run(
                [sys.executable, "-c", FINGERPRINT], check=True, capture_output=True, env=environment, timeout=120
            )
            hashes.add(done.stdout)
        assert len(hashes) == 1
        assert len(hashes.pop().strip()) == 64

    def test_another_seed_is_another_world(self) -> None:
        shape = Shape.of(10_000)
        first, again, other = (_all(SyntheticWorld(shape, seed)) for seed in (1, 1, 2))
        assert np.array_equal(first.item_ids, again.item_ids)
        assert not np.array_equal(first.item_ids, other.item_ids)


def test_it_is_ingested_like_any_data_set(tmp_path: Path) -> None:
    report = ingest(open_dataset("synthetic", rows=20_000), tmp_path)
    assert (report.rows["ratings"], report.rows["users"], report.rows["items"]) == (20_000, 125, 1_000)
    assert (report.dropped, report.warnings) == ({}, ())
    items = read_table(tmp_path, "items")
    assert len(set(items["title"].to_pylist())) == 1_000
    assert items["title"][0].as_py().startswith("The Silent Harbour 1 (")
    assert set(read_table(tmp_path, "item_genres")["genre"].to_pylist()) == set(GENRES)


def test_each_size_has_a_folder_and_is_made_once(tmp_path: Path) -> None:
    small, larger = (IngestInputs("synthetic", tmp_path, rows=rows) for rows in (10_000, 12_000))
    assert [prepare_tables(inputs).reused for inputs in (small, larger, small)] == [False, False, True]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["synthetic-10000", "synthetic-12000"]


def test_the_fingerprint_tells_sizes_apart() -> None:
    small, larger = (open_dataset("synthetic", rows=rows).fingerprint() for rows in (10_000, 12_000))
    assert small["shape"] != larger["shape"]
    assert small["world.py"] == larger["world.py"]
    assert len(list(open_dataset("synthetic", rows=10_000).tags(Findings()))) == 0
