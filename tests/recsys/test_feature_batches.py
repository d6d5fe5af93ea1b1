"""Features of a batch are those of its queries one at a time, in whichever form, and of any choice of columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.catalogue import NO_YEAR, Catalogue
from recsys.domain import MAX_REQUEST_HISTORY, Candidates, Floats32, History, RankQuery
from recsys.errors import InvalidRequest
from recsys.features import FeatureStore, ItemEvents
from recsys.features.rating import RatingModel
from recsys.features.reference import ReferenceFeatures
from recsys.features.selection import Selection
from recsys.kernels import COMPILED
from recsys.people import People, Role

DAY = 86_400
CUTOFF = 10_000 * DAY
ITEMS = 60
GENRES = ("Action", "Comedy", "Drama", "Western")
CHANNELS = ("popularity", "itemcf", "vector")


def world(seed: int = 0) -> FeatureStore:
    """Sixty items, ten apart, of which some have no year, no genre, nobody credited, no event."""
    rng = np.random.default_rng(seed)
    years = rng.integers(1930, 2025, ITEMS).astype(np.int16)
    years[::7], years[3::11] = NO_YEAR, 1850
    credited = [sorted(rng.choice(40, rng.integers(0, 12), replace=False).tolist()) for _ in range(ITEMS)]
    roles = [rng.choice([int(role) for role in Role], len(people)) for people in credited]
    people = People(
        np.cumsum([0, *(len(each) for each in credited)]),
        np.concatenate([np.asarray(each, np.int32) for each in credited]).astype(np.int32),
        np.concatenate([np.sort(each) for each in roles]).astype(np.int8),
        np.arange(40),
    )
    catalogue = Catalogue(10 * np.arange(1, ITEMS + 1), years, rng.random((ITEMS, len(GENRES))) < 0.3, GENRES, people)
    n = 800
    users = np.sort(rng.integers(0, 50, n)).astype(np.int32)
    times = CUTOFF - rng.integers(0, 900 * DAY, n)
    events = ItemEvents(
        rng.integers(0, ITEMS - 5, n).astype(np.int32),
        times[np.lexsort((times, users))],
        np.where(rng.random(n) < 0.2, np.nan, rng.integers(1, 6, n)).astype(np.float32),
        users,
    )
    rating = RatingModel(
        rng.standard_normal((ITEMS, 3)).astype(np.float32),
        rng.standard_normal(ITEMS).astype(np.float32),
        3.5,
        1.1,
        0.1,
        1,
    )
    return FeatureStore.build(catalogue, events, cutoff=CUTOFF, channels=CHANNELS, rating=rating)


STORE = world()
N_FEATURES = len(STORE.feature_names)
STEP = DAY // 8
"""Times that are multiples of it apart lie on the bounds of hours, sessions, weeks and months."""
VALUES = ([np.nan], [3.0, np.nan], [1.0, 2.5, 5.0], [4.0, np.inf, -1.0])


def history_of(rng: np.random.Generator) -> History:
    """Of any length, at times out of order, with unknown items, events after the query, and values that are none."""
    n = rng.choice([0, 1, 2, 3, 4, 5, 9, 20, 60, 200])
    times = CUTOFF - STEP * rng.integers(rng.choice([-40, 0]), rng.choice([60, 260, 6_000]), n)
    times += rng.integers(0, rng.choice([1, DAY]), n)
    if rng.random() < 0.9:
        times = np.sort(times)
    item_ids = 10 * rng.integers(1, rng.choice([5, ITEMS + 1, ITEMS + 20]), n)
    return History.of(item_ids, times, values=rng.choice(VALUES[rng.integers(len(VALUES))], n))


def query_of(seed: int) -> RankQuery:
    """Of no, one or many candidates, from any channels in any order."""
    rng = np.random.default_rng(seed)
    n = rng.choice([0, 1, 2, 3, 10, ITEMS])
    channels = ((), CHANNELS, CHANNELS, CHANNELS[:1], ("fallback",), ("vector", "fallback", "popularity"))[
        rng.integers(6)
    ]
    shape = (n, len(channels))
    candidates = Candidates.without_seeds(
        10 * rng.permutation(np.arange(1, ITEMS + 1))[:n],
        channels,
        rng.choice([0.5, 1.0, -2.0, 7.25], shape).astype(np.float32),
        rng.integers(0, 5, shape).astype(np.int32),
    )
    as_of = int(rng.choice([CUTOFF - STEP * rng.integers(-16, 16), CUTOFF + 12_345, 0]))
    return RankQuery(
        history_of(rng), as_of, candidates, tuple(rng.choice(GENRES, rng.integers(3), replace=False).tolist())
    )


def one_at_a_time(store: FeatureStore, batch: Sequence[RankQuery]) -> Floats32:
    """The rule: every feature of each query by itself, in numpy."""
    compute = ReferenceFeatures(store, Selection.of(store.groups, None))
    return np.concatenate([np.empty((0, len(store.feature_names)), np.float32), *(compute([query]) for query in batch)])


def reference(store: FeatureStore, batch: Sequence[RankQuery], columns: tuple[int, ...] | None) -> Floats32:
    return ReferenceFeatures(store, Selection.of(store.groups, columns))(batch)


def compiled(store: FeatureStore, batch: Sequence[RankQuery], columns: tuple[int, ...] | None) -> Floats32:
    from recsys.features.compiled import CompiledFeatures

    return CompiledFeatures(store, Selection.of(store.groups, columns))(batch)


FORMS = [
    reference,
    pytest.param(compiled, marks=pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled")),
]
Form = Callable[[FeatureStore, Sequence[RankQuery], tuple[int, ...] | None], Floats32]


@pytest.mark.parametrize("form", FORMS)
@given(
    batch=st.lists(st.integers(0, 2**32).map(query_of), min_size=1, max_size=4),
    columns=st.none() | st.sets(st.integers(0, N_FEATURES - 1)),
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_batch_has_the_features_of_its_queries(form: Form, batch: list[RankQuery], columns: set[int] | None) -> None:
    expected = one_at_a_time(STORE, batch)
    assert np.isfinite(expected).all()
    chosen = (
        tuple(range(N_FEATURES)) if columns is None else tuple(sorted(columns, key=lambda column: (column % 7, column)))
    )
    found = form(STORE, batch, None if columns is None else chosen)
    assert found.dtype == np.float32
    assert found.shape == (len(expected), len(chosen))
    assert found.tobytes() == np.ascontiguousarray(expected[:, chosen]).tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_all_kinds_of_queries_has_their_features(form: Form) -> None:
    batch = [query_of(seed) for seed in range(600)]
    found, expected = form(STORE, batch, None), one_at_a_time(STORE, batch)
    assert [
        name for name, differs in zip(STORE.feature_names, (found != expected).any(axis=0), strict=True) if differs
    ] == []
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 7, 8, 129, MAX_REQUEST_HISTORY, 6_000])
def test_histories_of_every_length_have_the_same_features(form: Form, n: int) -> None:
    rng = np.random.default_rng(n)
    history = History.of(
        10 * rng.integers(1, ITEMS + 1, n), np.sort(CUTOFF - rng.integers(0, 3_000 * DAY, n)), values=rng.random(n) * 5
    )
    shown = Candidates.without_seeds(
        10 * np.arange(1, ITEMS + 1),
        CHANNELS,
        rng.random((ITEMS, 3)).astype(np.float32),
        rng.integers(0, 9, (ITEMS, 3)).astype(np.int32),
    )
    query = RankQuery(history, CUTOFF, shown)
    assert form(STORE, [query], None).tobytes() == one_at_a_time(STORE, [query]).tobytes()


def test_threads_do_not_disturb_each_other() -> None:
    batches = [[query_of(seed) for seed in range(start, start + 5)] for start in range(0, 200, 5)]
    alone = [STORE.features_of(batch).tobytes() for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda batch: STORE.features_of(batch).tobytes(), batches)) == alone


@pytest.mark.parametrize("form", FORMS)
def test_each_column_can_be_had_alone(form: Form) -> None:
    rng = np.random.default_rng(0)
    n = 30
    shown = Candidates.without_seeds(
        10 * np.arange(1, n + 1),
        CHANNELS,
        rng.random((n, 3)).astype(np.float32),
        rng.integers(0, 9, (n, 3)).astype(np.int32),
    )
    history = History.of([10, 300, 50], [CUTOFF - DAY, CUTOFF - 10, CUTOFF - 5], values=[1, 5, 4])
    batch = [RankQuery(history, CUTOFF, shown), RankQuery(History.empty(), CUTOFF, shown, ("Drama",))]
    expected = one_at_a_time(STORE, batch)
    for column, name in enumerate(STORE.feature_names):
        assert form(STORE, batch, (column,))[:, 0].tolist() == expected[:, column].tolist(), name
    assert form(STORE, batch, ()).shape == (2 * n, 0)


@pytest.mark.parametrize("form", FORMS)
def test_zeros_of_both_signs_have_the_same_rank(form: Form) -> None:
    items = STORE.items.copy()
    items[:5, STORE.feature_names.index("item_count_30d")] = [0.0, -0.0, -1.5, 2.0, -0.25]
    shown = Candidates.without_seeds(10 * np.arange(1, 6), (), np.empty((5, 0), np.float32), np.empty((5, 0), np.int32))
    query = RankQuery(History.empty(), CUTOFF, shown)
    column = STORE.feature_names.index("among_item_count_30d_rank")
    assert form(replace(STORE, items=items), [query], (column,))[:, 0].tolist() == [2, 2, 5, 1, 4]


@pytest.mark.parametrize("form", FORMS)
def test_a_catalogue_without_people_or_ratings_has_its_features(form: Form) -> None:
    plain = replace(STORE, catalogue=replace(STORE.catalogue, people=None), rating=None)
    shown = Candidates.without_seeds(
        np.asarray([10, 20]), ("itemcf",), np.ones((2, 1), np.float32), np.ones((2, 1), np.int32)
    )
    query = RankQuery(History.of([30], [CUTOFF]), CUTOFF, shown)
    found = form(plain, [query], None)
    assert found.tobytes() == one_at_a_time(plain, [query]).tobytes()
    assert found.shape == (2, N_FEATURES - 1)


@pytest.mark.parametrize("form", FORMS)
def test_one_unknown_candidate_or_genre_is_refused(form: Form) -> None:
    def query(item_id: int, *genres: str) -> RankQuery:
        none = np.empty((1, 0), np.float32)
        return RankQuery(
            History.empty(),
            CUTOFF,
            Candidates.without_seeds(np.asarray([item_id]), (), none, none.astype(np.int32)),
            genres,
        )

    with pytest.raises(InvalidRequest, match="item_ids: 77 is not in this bundle's catalogue of 60 items"):
        form(STORE, [query(10), query(77)], (0,))
    with pytest.raises(InvalidRequest, match="unknown genre 'Opera'"):
        form(STORE, [query(10), query(10, "Opera")], (0,))


def test_the_store_computes_batches_and_choices_of_columns() -> None:
    shown = Candidates.without_seeds(
        np.asarray([10, 20]), ("itemcf",), np.ones((2, 1), np.float32), np.ones((2, 1), np.int32)
    )
    batch = [RankQuery(History.of([30], [CUTOFF]), CUTOFF, shown), RankQuery(History.empty(), CUTOFF, shown)]
    every = STORE.features_of(batch)
    assert every.tobytes() == np.concatenate([STORE.features(query) for query in batch]).tobytes()
    assert STORE.features_of(batch, (5, 2)).tolist() == every[:, [5, 2]].tolist()
    assert STORE.features_of([]).shape == (0, N_FEATURES)
    assert STORE.features_of([], (5, 2)).shape == (0, 2)
    with pytest.raises(ValueError, match="expected distinct positions"):
        STORE.features_of(batch, (5, 5))
    with pytest.raises(ValueError, match="expected distinct positions"):
        STORE.features_of(batch, (N_FEATURES,))
