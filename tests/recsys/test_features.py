"""Features of a toy world with known answers; nothing but as_of, history and the snapshot moves them."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.catalogue import NO_YEAR, Catalogue
from recsys.domain import Candidates, History, RankQuery
from recsys.errors import BundleMismatch, InvalidRequest
from recsys.features import FACTS_FILE, MATRIX_FILE, MISSING, FeatureStore, ItemEvents
from recsys.features.rating import RatingModel

DAY = 86_400
CUTOFF = 1_000 * DAY
CATALOGUE = Catalogue(
    np.asarray([10, 20, 30, 40], np.int64),
    np.asarray([1994, 1999, 2001, NO_YEAR], np.int16),
    np.asarray([[1, 0], [1, 1], [0, 1], [0, 0]], np.bool_),
    ("Comedy", "Drama"),
)
EVENTS = ItemEvents(
    np.asarray([2, 0, 1, 1, 0, 0], np.int32),
    CUTOFF - DAY * np.asarray([200, 100, 3, 50, 20, 1]),
    np.asarray([1, 4, 3, np.nan, 5, 5], np.float32),
    np.asarray([0, 0, 0, 1, 1, 2], np.int32),
)
"""Three users: one came 200, 100 and 3 days ago, one 50 and 20, one yesterday for the first time."""
HISTORY = History.of([10, 20], [CUTOFF - 30 * DAY, CUTOFF - DAY], values=[5, 3])


@pytest.fixture
def store() -> FeatureStore:
    return FeatureStore.build(CATALOGUE, EVENTS, cutoff=CUTOFF, channels=("popularity", "itemcf"))


def candidates(*item_ids: int) -> Candidates:
    """`itemcf` returned all but the first, `fallback` says nothing that counts."""
    n = len(item_ids)
    scores = np.zeros((n, 2), np.float32)
    scores[:, 0] = np.arange(n, 0, -1)
    ranks = np.zeros((n, 2), np.int32)
    ranks[1:, 0] = np.arange(1, n)
    ranks[:, 1] = 1
    return Candidates.without_seeds(
        np.asarray(item_ids, np.int64),
        ("itemcf", "fallback"),
        scores,
        ranks,
    )


def table(store: FeatureStore, query: RankQuery) -> dict[str, list[float]]:
    features = store.features(query)
    assert features.dtype == np.float32
    assert features.shape == (len(query.candidates), len(store.feature_names))
    assert np.isfinite(features).all()
    return {name: features[:, column].tolist() for column, name in enumerate(store.feature_names)}


def built(catalogue: Catalogue) -> FeatureStore:
    """Of the same events."""
    return FeatureStore.build(catalogue, EVENTS, cutoff=CUTOFF, channels=("itemcf",))


ASKED = RankQuery(HISTORY, CUTOFF, candidates(10, 20, 30, 40))
"""For every item."""


def test_item_features_are_those_of_the_cutoff(store: FeatureStore) -> None:
    found = table(store, RankQuery(HISTORY, CUTOFF, candidates(10, 20, 30, 40)))
    assert found["item_count_30d"] == pytest.approx([math.log(n + 1) - math.log(1 + 3 / 4) for n in (2, 1, 0, 0)])
    assert found["item_count_all"] == pytest.approx([math.log(n + 1) - math.log(1 + 6 / 4) for n in (3, 2, 1, 0)])
    assert found["item_percentile_all"] == [0.75, 0.5, 0.25, 0.0]
    assert found["item_trend_30d_90d"] == pytest.approx(
        [math.log((m / 30) / (n / 90)) for m, n in ((3, 3), (2, 3), (1, 1), (1, 1))], abs=1e-6
    )
    assert found["item_trend_365d_all"] == [0.0] * 4
    assert found["item_returning_all"] == pytest.approx([math.log(n + 1) - math.log(1 + 3 / 4) for n in (2, 1, 0, 0)])
    assert found["item_returning_30d"] == pytest.approx([math.log(n + 1) - math.log(1 + 2 / 4) for n in (1, 1, 0, 0)])
    assert found["item_returning_share_all"] == pytest.approx([(2 + 5) / 13, (1 + 5) / 12, 5 / 11, 5 / 10])
    mean = (5 + 5 + 4 + 3 + 1) / 5
    assert found["item_mean_rating"] == pytest.approx(
        [(sum(r) + 10 * mean) / (len(r) + 10) for r in ([5, 5, 4], [3], [1], [])]
    )
    assert found["item_rating_trend"][2:] == [pytest.approx((1 - (1 + 10 * mean) / 11) / (1 + 10 * 2 ** (200 / 60))), 0]
    assert found["item_days_since_first"] == pytest.approx([*(math.log1p(days) for days in (100, 50, 200)), MISSING])
    assert found["item_age_share"] == pytest.approx([0.5, 0.25, 1.0, 0.0])
    assert found["item_days_since_last"] == pytest.approx([math.log1p(1), math.log1p(3), math.log1p(200), MISSING])
    assert found["item_year"] == [1994, 1999, 2001, MISSING]
    assert found["item_genres"] == [1, 2, 1, 0]


def test_ratings_and_trends_of_items_are_those_worked_out_by_hand(store: FeatureStore) -> None:
    """Ratings are 5, 5, 4 of the first item, 3 of the second, 1 of the third: mean 3.6, variance 2.24."""
    found = table(store, RankQuery(HISTORY, CUTOFF, candidates(10, 20, 30, 40)))
    assert found["item_rating_spread"] == pytest.approx([1.389144, 1.436458, 1.595071, 1.496663], abs=1e-5)
    rates = [(2 / 7, 3 / 30), (2 / 7, 2 / 30), (1 / 7, 1 / 30), (1 / 7, 1 / 30)]
    assert found["item_trend_7d_30d"] == pytest.approx([math.log(week / month) for week, month in rates], abs=1e-6)


def test_runtime_and_budget_are_those_of_the_catalogue() -> None:
    assert (table(built(CATALOGUE), ASKED)["item_runtime"], table(built(CATALOGUE), ASKED)["item_budget"]) == (
        [MISSING] * 4,
        [MISSING] * 4,
    )
    measured = replace(
        CATALOGUE,
        runtimes=np.asarray([90, np.nan, 121.5, 60], np.float32),
        budgets=np.asarray([999_999, 0, np.nan, 99], np.float32),
    )
    found = table(built(measured), ASKED)
    assert found["item_runtime"] == [90, MISSING, 121.5, 60]
    assert found["item_budget"] == pytest.approx([6 * math.log(10), 0, MISSING, 2 * math.log(10)])


def test_user_features_follow_history_and_as_of(store: FeatureStore) -> None:
    found = {name: column[0] for name, column in table(store, RankQuery(HISTORY, CUTOFF, candidates(30))).items()}
    assert found["user_events"] == pytest.approx(math.log1p(2))
    assert found["user_events_7d"] == pytest.approx(math.log1p(1))
    assert found["user_events_30d"] == pytest.approx(math.log1p(2))
    assert found["user_days_since_last"] == pytest.approx(math.log1p(1))
    assert found["user_days_since_first"] == pytest.approx(math.log1p(30))
    assert found["user_events_per_day"] == pytest.approx(math.log1p(2 / 30)), "thirty days, the first and last counted"
    assert (found["user_mean_rating"], found["user_rating_spread"]) == (4.0, 1.0)
    assert found["user_mean_year"] == pytest.approx(1996.5)
    shares = (0.75, 0.25)
    assert found["user_genre_entropy"] == pytest.approx(-sum(share * math.log(share) for share in shares))
    later = {name: c[0] for name, c in table(store, RankQuery(HISTORY, CUTOFF + 9 * DAY, candidates(30))).items()}
    assert {name for name in found if found[name] != later[name]} == {
        "user_events_7d",
        "user_events_30d",
        "user_days_since_last",
        "user_days_since_first",
        "cross_new_since_last",
    }


def test_crosses_compare_item_and_habit(store: FeatureStore) -> None:
    found = table(store, RankQuery(HISTORY, CUTOFF, candidates(10, 20, 30, 40)))
    assert found["cross_genre_affinity"] == pytest.approx([0.75, 0.5, 0.25, 0.0])
    assert found["cross_genre_rating"] == pytest.approx([0.5 / 1.5, (0.5 / 1.5 - 0.5) / 2, -0.5, 0.0])
    assert found["cross_decade_share"] == [1.0, 1.0, 0.0, 0.0]
    assert found["cross_year_deviation"] == pytest.approx([-2.5, 2.5, 4.5, MISSING])
    ratings = [50 / 13, 39 / 11, 37 / 11, 36 / 10]
    assert found["cross_rating_deviation"] == pytest.approx([rating - 4 for rating in ratings], abs=1e-5)
    assert found["cross_popularity_deviation"] == pytest.approx([0.125, -0.125, -0.375, -0.625])
    newer = [math.log1p(days) - math.log1p(1) for days in (100, 50, 200)]
    assert found["cross_new_since_last"] == pytest.approx([*newer, MISSING])
    assert found["cross_stage_count"][0] > found["cross_stage_count"][1] > found["cross_stage_count"][2]
    assert found["among_item_count_30d_rank"] == [1, 2, 3, 3]


def test_channels_say_score_and_rank_or_nothing(store: FeatureStore) -> None:
    found = table(store, RankQuery(HISTORY, CUTOFF, candidates(10, 20, 30, 40)))
    assert found["itemcf_relative_score"] == [-1, 1, 0.5, 0]
    assert found["itemcf_rank"] == [2001, 1, 2, 3]
    assert found["popularity_rank"] == [2001] * 4
    assert found["channels_returned"] == [0, 1, 1, 1]
    assert found["best_rank"] == [2001, 1, 2, 3]
    assert found["fused_rank"] == pytest.approx([0, 1 / 61, 1 / 62, 1 / 63])


def test_an_empty_history_is_well_defined_and_preferences_stand_in(store: FeatureStore) -> None:
    cold = table(store, RankQuery(History.empty(), CUTOFF, candidates(10, 20, 40)))
    assert cold["user_events"] == [0, 0, 0]
    assert cold["user_days_since_last"] == [MISSING] * 3
    assert cold["cross_genre_affinity"] == [0, 0, 0]
    found = table(store, RankQuery(History.empty(), CUTOFF, candidates(10, 20, 40), ("Drama",)))
    assert found["cross_genre_affinity"] == pytest.approx([0, 0.5, 0])


def test_unknown_history_items_are_ignored(store: FeatureStore) -> None:
    mixed = History.of([7, 10, 99, 20], [0, CUTOFF - 30 * DAY, CUTOFF, CUTOFF - DAY], values=[1, 5, 1, 3])
    with_unknown = store.features(RankQuery(mixed, CUTOFF, candidates(10, 30)))
    assert with_unknown.tobytes() == store.features(RankQuery(HISTORY, CUTOFF, candidates(10, 30))).tobytes()


def test_the_wall_clock_changes_nothing(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    query = RankQuery(HISTORY, CUTOFF, candidates(10, 30))
    before = store.features(query).tobytes()
    monkeypatch.setattr(time, "time", lambda: 5.0)
    monkeypatch.setitem(os.environ, "TZ", "Pacific/Auckland")
    assert store.features(query).tobytes() == before


def test_a_world_without_ratings_has_finite_features() -> None:
    silent = replace(EVENTS, values=np.full(6, np.nan, np.float32))
    store = FeatureStore.build(CATALOGUE, silent, cutoff=CUTOFF, channels=("itemcf",))
    found = table(store, RankQuery(History.of([10], [CUTOFF]), CUTOFF, candidates(20)))
    assert found["item_mean_rating"] == [MISSING]
    assert found["cross_rating_deviation"] == [MISSING]


def test_no_candidates_have_no_rows(store: FeatureStore) -> None:
    assert store.features(RankQuery(HISTORY, CUTOFF, candidates())).shape == (0, len(store.feature_names))


def test_unknown_candidates_and_genres_are_refused(store: FeatureStore) -> None:
    with pytest.raises(InvalidRequest, match="77 is not in this bundle"):
        store.features(RankQuery(HISTORY, CUTOFF, candidates(10, 77)))
    with pytest.raises(InvalidRequest, match="unknown genre 'Opera'"):
        store.features(RankQuery(HISTORY, CUTOFF, candidates(10), ("Opera",)))


def test_what_is_saved_is_what_opens(store: FeatureStore, tmp_path: Path) -> None:
    CATALOGUE.save(tmp_path)
    store.save(tmp_path)
    opened = FeatureStore.open(tmp_path)
    query = RankQuery(HISTORY, CUTOFF, candidates(10, 20, 30, 40))
    assert opened.feature_names == store.feature_names
    assert opened.features(query).tobytes() == store.features(query).tobytes()


def test_arrays_of_another_catalogue_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    CATALOGUE.save(tmp_path)
    store.save(tmp_path)
    np.save(tmp_path / MATRIX_FILE, store.items[:3])
    with pytest.raises(BundleMismatch, match=r"items.npy: float32\[3, 33\], expected float32\[4, 33\]; publish again"):
        FeatureStore.open(tmp_path)
    np.save(tmp_path / MATRIX_FILE, store.items.astype(np.float64))
    with pytest.raises(BundleMismatch, match=r"items.npy: float64\[4, 33\], expected float32\[4, 33\]; publish again"):
        FeatureStore.open(tmp_path)


def test_a_rating_model_adds_its_prediction(store: FeatureStore, tmp_path: Path) -> None:
    model = RatingModel(np.eye(4, dtype=np.float32), np.zeros(4, np.float32), 3.0, 1.0, 0.1, 1.0)
    rated = replace(store, rating=model)
    query = RankQuery(HISTORY, CUTOFF, candidates(10, 30))
    column = rated.feature_names.index("cross_svd_rating")
    expected = model.predict(np.asarray([0, 1]), HISTORY.values, np.asarray([0, 2]))
    assert rated.features(query)[:, column].tolist() == expected.tolist()
    assert np.delete(rated.features(query), column, axis=1).tobytes() == store.features(query).tobytes()
    CATALOGUE.save(tmp_path)
    rated.save(tmp_path)
    assert FeatureStore.open(tmp_path).features(query).tobytes() == rated.features(query).tobytes()


def test_features_of_other_software_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    CATALOGUE.save(tmp_path)
    store.save(tmp_path)
    facts = tmp_path / FACTS_FILE
    facts.write_text(facts.read_text().replace("item_year", "item_decade"))
    with pytest.raises(BundleMismatch, match="'item_decade', but this software computes 'item_year'"):
        FeatureStore.open(tmp_path)
