"""The demo world keeps its promises: true-looking data with every signal a model needs, the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from offline.ingest.demo.calendar import DAYS, SECONDS_PER_DAY, START, membership
from offline.ingest.demo.catalogue import COLUMNS, GENRES, DemoCatalogue, parse_catalogue, read_catalogue
from offline.ingest.demo.world import DemoWorld, generate
from recsys.errors import DataMalformed, InvalidRequest

HALF_YEAR = 182 * SECONDS_PER_DAY
END = START + DAYS * SECONDS_PER_DAY
VISIT_GAP = 3_600
"""Seconds of silence that separate two visits."""
FINGERPRINT = """
import hashlib
from offline.ingest.demo.catalogue import read_catalogue
from offline.ingest.demo.world import generate
world = generate(read_catalogue(), users=300)
columns = (world.user_id, world.item_id, world.timestamp, world.value)
print(hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest())
"""


@pytest.fixture(scope="module")
def catalogue() -> DemoCatalogue:
    return read_catalogue()


@pytest.fixture(scope="module")
def world(catalogue: DemoCatalogue) -> DemoWorld:
    return generate(catalogue)


class TestCatalogue:
    def test_it_has_many_films_of_every_decade(self, catalogue: DemoCatalogue) -> None:
        assert len(catalogue) >= 430
        decades, films = np.unique(catalogue.year // 10 * 10, return_counts=True)
        assert decades.tolist() == [1930, 1940, 1950, 1960, 1970, 1980, 1990, 2000, 2010, 2020]
        assert films.min() >= 20
        assert 1900 <= catalogue.year.min() <= catalogue.year.max() <= 2025

    def test_ids_run_from_one_and_films_are_unique(self, catalogue: DemoCatalogue) -> None:
        assert catalogue.item_id.tolist() == list(range(1, len(catalogue) + 1))
        films = list(zip(catalogue.title, catalogue.year.tolist(), strict=True))
        assert len(set(films)) == len(films)

    def test_every_film_has_clean_names(self, catalogue: DemoCatalogue) -> None:
        assert not [title for title in catalogue.title if title != title.strip() or not title or title.endswith(")")]
        for names, most in ((catalogue.director, 3), (catalogue.cast, 4)):
            assert not [film for film in names if not 1 <= len(film) <= most or len(set(film)) < len(film)]
            assert not [name for film in names for name in film if name != name.strip() or not name]

    def test_genres_are_known_and_all_used(self, catalogue: DemoCatalogue) -> None:
        assert not [film for film in catalogue.genres if len(set(film)) < len(film)]
        assert {genre for film in catalogue.genres for genre in film} == set(GENRES)
        assert np.count_nonzero(membership(catalogue), axis=0).min() >= 20

    def test_known_facts(self, catalogue: DemoCatalogue) -> None:
        row = catalogue.title.index("Seven Samurai")
        assert catalogue.year[row] == 1954
        assert catalogue.director[row] == ("Akira Kurosawa",)
        assert catalogue.cast[row][0] == "Toshirō Mifune"
        assert catalogue.genres[row] == ("Action", "Adventure", "Drama")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("1,Alien,1979,Horror,Ridley Scott", "5 fields"),
            ("2,Alien,1979,Horror,Ridley Scott,Sigourney Weaver", "item_id '2'"),
            ("1,Alien,later,Horror,Ridley Scott,Sigourney Weaver", "year 'later'"),
            ("1,Alien,1979,Horror|Space,Ridley Scott,Sigourney Weaver", r"unknown genres \['Space'\]"),
        ],
    )
    def test_a_broken_line_is_named(self, line: str, message: str) -> None:
        with pytest.raises(DataMalformed, match=f"film 1 has {message}"):
            parse_catalogue([",".join(COLUMNS), line])

    def test_another_header_is_refused(self) -> None:
        with pytest.raises(DataMalformed, match="the header is"):
            parse_catalogue(["id,name", "1,Alien"])


class TestColumns:
    def test_counts_and_types(self, world: DemoWorld) -> None:
        assert np.unique(world.user_id).tolist() == list(range(1, 2_401))
        assert world.user_id.size >= 150_000
        columns = (world.user_id, world.item_id, world.timestamp, world.value)
        assert [column.dtype for column in columns] == [np.int64, np.int64, np.int64, np.float32]
        assert {column.shape for column in columns} == {world.user_id.shape}

    def test_ranges(self, world: DemoWorld) -> None:
        assert np.unique(world.value).tolist() == [step / 2 for step in range(1, 11)]
        assert 1 <= world.item_id.min() <= world.item_id.max() <= len(world.catalogue)
        assert START <= world.timestamp.min() <= world.timestamp.max() < END
        assert world.timestamp.max() - world.timestamp.min() > 1_060 * SECONDS_PER_DAY

    def test_rows_are_in_order_and_no_film_is_rated_twice(self, world: DemoWorld) -> None:
        order = np.lexsort((world.item_id, world.user_id, world.timestamp))
        assert np.array_equal(order, np.arange(order.size))
        assert np.unique(_pairs(world)).size == world.user_id.size

    def test_ratings_have_user_and_item_bias(self, world: DemoWorld) -> None:
        assert 3.2 < world.value.mean() < 3.8
        for ids in (world.user_id, world.item_id):
            counts = np.bincount(ids)
            means = np.bincount(ids, world.value)[counts >= 50] / counts[counts >= 50]
            assert means.std() > 0.25


class TestDeterminism:
    def test_processes_agree(self) -> None:
        first, second = (_start_fingerprint(seed) for seed in ("1", "2"))
        hashes = {process.communicate(timeout=120)[0] for process in (first, second)}
        assert first.returncode == second.returncode == 0
        assert len(hashes) == 1
        assert len(hashes.pop().strip()) == 64

    def test_another_seed_is_another_world(self, catalogue: DemoCatalogue) -> None:
        first, again, other = (generate(catalogue, seed=seed, users=50) for seed in (1, 1, 2))
        assert np.array_equal(first.item_id, again.item_id)
        assert np.array_equal(first.value, again.value)
        assert not np.array_equal(first.timestamp[:100], other.timestamp[:100])

    @pytest.mark.parametrize("arguments", [{"users": 0}, {"events_per_user": 0.5}, {"events_per_user": float("nan")}])
    def test_bad_sizes_are_refused(self, catalogue: DemoCatalogue, arguments: dict[str, float]) -> None:
        with pytest.raises(InvalidRequest, match="expected at least 1"):
            generate(catalogue, **arguments)  # type: ignore[arg-type]

    def test_a_catalogue_of_new_films_only_is_refused(self) -> None:
        new = parse_catalogue([",".join(COLUMNS), "1,Past Lives,2023,Drama,Celine Song,Greta Lee"])
        with pytest.raises(InvalidRequest, match="no film from before 2022"):
            generate(new)

    def test_the_smallest_catalogue_works(self) -> None:
        alone = parse_catalogue([",".join(COLUMNS), "1,Alien,1979,Horror,Ridley Scott,Sigourney Weaver"])
        smallest = generate(alone, users=3)
        assert sorted(smallest.user_id.tolist()) == [1, 2, 3]
        assert smallest.item_id.tolist() == [1, 1, 1]


class TestShape:
    def test_long_tails(self, world: DemoWorld) -> None:
        for ids, share in ((world.item_id, 0.28), (world.user_id, 0.28)):
            counts = np.sort(np.bincount(ids)[1:])[::-1]
            assert counts[: counts.size // 10].sum() > share * counts.sum()
            assert counts[counts.size // 2 :].sum() < 0.25 * counts.sum()

    def test_some_users_are_cold(self, world: DemoWorld) -> None:
        cold = np.mean(np.bincount(world.user_id)[1:] <= 4)
        assert 0.03 < cold < 0.2

    def test_enough_test_users_are_warm_and_some_are_new(self, world: DemoWorld) -> None:
        split = int(np.quantile(world.timestamp, 0.9))
        before = np.bincount(world.user_id[world.timestamp <= split], minlength=2_401)
        tested = np.unique(world.user_id[world.timestamp > split])
        assert np.count_nonzero(before[tested] >= 5) >= 300
        assert np.count_nonzero(before[tested] < 5) >= 30

    def test_films_of_the_three_years_come_in_their_year(self, world: DemoWorld) -> None:
        years = world.catalogue.year[world.item_id - 1]
        calendar = world.timestamp.astype("datetime64[s]").astype("datetime64[Y]")
        assert np.all(years <= calendar.astype(np.int64) + 1970)
        assert np.count_nonzero(years == 2024) > 500

    def test_some_older_films_come_late(self, world: DemoWorld) -> None:
        first = np.full(len(world.catalogue) + 1, END)
        np.minimum.at(first, world.item_id, world.timestamp)
        counts = np.bincount(world.item_id, minlength=first.size)
        old = np.concatenate(([False], world.catalogue.year < 2020)) & (counts >= 100)
        assert np.count_nonzero(first[old] > START + 2 * HALF_YEAR) >= 5

    def test_users_return_on_other_days_and_stay_for_minutes(self, world: DemoWorld) -> None:
        gaps = _gaps(world)
        within = gaps[gaps < VISIT_GAP]
        assert gaps.min() >= 20
        assert within.max() <= 1_220
        assert gaps[gaps >= VISIT_GAP].min() > 3 * VISIT_GAP
        assert 0.7 < within.size / gaps.size < 0.85
        days = np.unique(world.user_id * DAYS + (world.timestamp - START) // SECONDS_PER_DAY) // DAYS
        assert np.median(np.bincount(days)[1:]) >= 5


class TestSignal:
    def test_popularity_drifts(self, world: DemoWorld) -> None:
        early = _top(world, world.timestamp < START + HALF_YEAR)
        late = _top(world, world.timestamp >= END - HALF_YEAR)
        assert 1 <= len(early & late) <= 14

    def test_films_rise_and_decay(self, world: DemoWorld) -> None:
        quarter = (world.timestamp - START) // (91 * SECONDS_PER_DAY)
        counts = np.zeros((13, len(world.catalogue) + 1))
        np.add.at(counts, (quarter, world.item_id), 1)
        shares = (counts / counts.sum(axis=1, keepdims=True))[:12, counts.sum(axis=0) >= 200]
        peaks = shares.argmax(axis=0)
        inside = (peaks > 0) & (peaks < 11)
        assert inside.mean() > 0.4
        assert np.median(shares.max(axis=0) / shares.mean(axis=0)) > 1.5

    def test_genres_tell_held_out_films_from_random_ones(self, world: DemoWorld) -> None:
        history, held_out = _split(world)
        genres = membership(world.catalogue)
        scores = _centred(history, genres) @ (genres - genres.mean(axis=0)).T
        assert _better_than_random(scores, history, held_out) > 0.58

    def test_films_of_one_director_are_seen_together(self, world: DemoWorld) -> None:
        films = world.catalogue
        seen = np.zeros((2_401, len(films)))
        seen[world.user_id, world.item_id - 1] = 1.0
        decade, director = films.year // 10, np.array([names[0] for names in films.director])
        upper = np.triu(np.ones((len(films), len(films)), dtype=bool), k=1)
        comparable = upper & (decade[:, None] == decade) & (membership(films) @ membership(films).T > 0)
        same = director[:, None] == director
        alike = _cosine(seen)
        assert np.count_nonzero(comparable & same) > 100
        assert alike[comparable & same].mean() > 1.1 * alike[comparable & ~same].mean()

    def test_personal_beats_popular_beats_random(self, world: DemoWorld) -> None:
        history, held_out = _split(world)
        random = np.random.default_rng(0).random(history.shape)
        popular = np.broadcast_to(history.sum(axis=0), history.shape)
        hits = [_precision(scores, history, held_out) for scores in (random, popular, history @ _cosine(history))]
        assert hits[1] > 3 * hits[0]
        assert hits[2] > 1.2 * hits[1]

    def test_the_film_before_says_more_than_another_of_the_same_user(self, world: DemoWorld) -> None:
        rows = _by_user(world)
        genres = membership(world.catalogue)
        genres /= np.linalg.norm(genres, axis=1, keepdims=True)
        films = genres[rows.item_id - 1]
        alike = np.einsum("ng,ng->n", films[1:], films[:-1])
        same_user = rows.user_id[1:] == rows.user_id[:-1]
        returning = np.diff(rows.timestamp) >= VISIT_GAP
        assert alike[same_user & ~returning].mean() > 1.05 * alike[same_user & returning].mean()


def _start_fingerprint(hash_seed: str) -> subprocess.Popen[str]:
    threads = {"OMP_NUM_THREADS": hash_seed, "OPENBLAS_NUM_THREADS": hash_seed, "OMP_THREAD_LIMIT": "8"}
    environment = {**os.environ, **threads, "PYTHONHASHSEED": hash_seed}
    return subprocess.Popen([sys.executable, "-c", FINGERPRINT], env=environment, stdout=subprocess.PIPE, text=True)


def _pairs(world: DemoWorld) -> npt.NDArray[np.int64]:
    return world.user_id * (len(world.catalogue) + 1) + world.item_id


def _by_user(world: DemoWorld) -> DemoWorld:
    order = np.lexsort((world.timestamp, world.user_id))
    columns = (world.user_id[order], world.item_id[order], world.timestamp[order], world.value[order])
    return DemoWorld(world.catalogue, *columns)


def _gaps(world: DemoWorld) -> npt.NDArray[np.int64]:
    """Seconds between consecutive events of one user, all users."""
    rows = _by_user(world)
    gaps: npt.NDArray[np.int64] = np.diff(rows.timestamp)[rows.user_id[1:] == rows.user_id[:-1]]
    return gaps


def _top(world: DemoWorld, chosen: npt.NDArray[np.bool_]) -> set[int]:
    return set(np.argsort(-np.bincount(world.item_id[chosen]), kind="stable")[:20].tolist())


def _split(world: DemoWorld) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What users with at least 20 events rated before, and then after, the .9 quantile of time: float64[users, n]."""
    parts = np.zeros((2, 2_401, len(world.catalogue)))
    later = (world.timestamp > np.quantile(world.timestamp, 0.9)).astype(np.int64)
    parts[later, world.user_id, world.item_id - 1] = 1.0
    both = (parts[0].sum(axis=1) >= 20) & (parts[1].sum(axis=1) > 0)
    return parts[0, both], parts[1, both]


def _centred(history: npt.NDArray[np.float64], attributes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each user's mean attributes, less the mean of all users."""
    profile: npt.NDArray[np.float64] = history @ attributes / history.sum(axis=1, keepdims=True)
    profile -= profile.mean(axis=0)
    return profile


def _cosine(history: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    together = history.T @ history
    norms = np.sqrt(np.diag(together))
    weights: npt.NDArray[np.float64] = together / (np.outer(norms, norms) + 30.0)
    np.fill_diagonal(weights, 0.0)
    return weights


def _better_than_random(
    scores: npt.NDArray[np.float64], history: npt.NDArray[np.float64], held_out: npt.NDArray[np.float64]
) -> float:
    """Mean chance that a held-out film scores above a film the user never rated (AUC; ties count one half)."""
    chances = []
    for row in range(len(scores)):
        held = scores[row][held_out[row] > 0]
        never = np.sort(scores[row][(held_out[row] == 0) & (history[row] == 0)])
        below = np.searchsorted(never, held, side="left") + np.searchsorted(never, held, side="right")
        chances.append(float(np.mean(below) / (2 * never.size)))
    return float(np.mean(chances))


def _precision(
    scores: npt.NDArray[np.float64], history: npt.NDArray[np.float64], held_out: npt.NDArray[np.float64]
) -> float:
    """Precision at 10 with seen films filtered."""
    top = np.argsort(-np.where(history > 0, -np.inf, scores), axis=1, kind="stable")[:, :10]
    return float(np.take_along_axis(held_out, top, axis=1).mean())
