"""A list is re-ranked by the weights of the policy, and by nothing if all are 0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gateway.pipeline.fallback import Fallback
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.request import Request
from gateway.pipeline.rerank import BONUS_FILE, MIXED_IN, Reranker, cosines, decade_shares, genre_shares, relevance
from gateway.pipeline.stages import Budget, Status
from recsys.bundle import RerankPolicy, ServingPolicy
from recsys.catalogue import NO_YEAR, Catalogue
from recsys.domain import EventType, History
from recsys.errors import BundleDamaged
from recsys.v1 import recommend_pb2
from tests.gateway.pipeline.test_pipeline import ById, Fixed
from tests.gateway.toy import POPULAR, catalogue, policy
from tests.gateway.world import gateway

NO_HISTORY = History.empty()


def reranked(
    item_ids: Sequence[int], history: History = NO_HISTORY, *, count: int = 500, **weights: float
) -> list[int]:
    """The toy's items, odd ones dramas and even ones westerns, of the year 1990 + n, in the new order."""
    asked = np.asarray(item_ids, np.int64)
    reranker = Reranker(catalogue(), RerankPolicy.model_validate(weights))
    return asked[reranker.order(asked, history, count)].tolist()


def watched(*item_ids: int) -> History:
    return History.of(item_ids, range(len(item_ids)))


def test_nothing_is_changed_where_nothing_is_asked_for() -> None:
    assert reranked([5, 3, 8, 1], watched(2, 4)) == [5, 3, 8, 1]
    assert reranked([], watched(2, 4), genre_calibration=1, diversity=1) == []


def test_a_bonus_of_one_halves_the_place() -> None:
    """Places count -log2(1 + place): with a bonus of 1.5 item 7 goes from place 5 to between places 1 and 2."""
    items, bonus = catalogue(), np.zeros(12, np.float32)
    bonus[items.rows(np.asarray([7]))] = 1.5
    asked = np.asarray([9, 3, 1, 5, 7, 2], np.int64)
    order = Reranker(items, RerankPolicy(exposure=1.5), bonus).order(asked, NO_HISTORY, 6)
    assert asked[order].tolist() == [9, 7, 3, 1, 5, 2]
    assert relevance(3).tolist() == pytest.approx([-1, -np.log2(3), -2])


def test_a_list_gets_the_genres_of_the_history() -> None:
    """Half dramas, half westerns watched; the ranker prefers dramas."""
    ranked = [1, 3, 5, 7, 2, 4, 6, 8]
    assert reranked(ranked, watched(9, 10), genre_calibration=50) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert reranked(ranked, watched(9, 10), genre_calibration=0.01) == ranked
    assert reranked(ranked, watched(10), genre_calibration=50) == [2, 4, 6, 8, 1, 3, 5, 7]


def test_a_list_gets_the_decades_of_the_history() -> None:
    """Items 10 and 11 are of the 2000s, the others of the 1990s."""
    assert reranked([1, 2, 3, 10, 11], watched(4, 5, 6, 7), decade_calibration=50) == [1, 2, 3, 10, 11]
    items = catalogue()
    items.years[items.rows(np.asarray([8]))] = 2008
    asked = np.asarray([1, 2, 3, 10, 11], np.int64)
    order = Reranker(items, RerankPolicy(decade_calibration=50)).order(asked, watched(8, 4), 5)
    assert asked[order].tolist() == [1, 10, 2, 11, 3]


def test_diversity_asks_for_what_is_not_there_yet() -> None:
    assert reranked([1, 3, 2, 4], diversity=5) == [1, 2, 3, 4]
    assert reranked([1, 3, 2, 4], diversity=0.1) == [1, 3, 2, 4]


@pytest.mark.parametrize(
    "history", [NO_HISTORY, History.of([1, 2], [1, 2], types=[EventType.DISLIKE] * 2), watched(99)]
)
def test_a_user_whose_taste_is_unknown_is_not_calibrated_to(history: History) -> None:
    ranked = [1, 3, 5, 2, 4]
    assert reranked(ranked, history, genre_calibration=50, decade_calibration=50) == ranked


def test_events_weigh_as_evidence_of_taste() -> None:
    """A western clicked on is .3 of a drama watched, so one item in four is; an impression is nothing."""
    kinds = [EventType.VIEW, EventType.CLICK, EventType.IMPRESSION]
    history = History.of([9, 10, 8], [1, 2, 3], types=kinds)
    assert reranked([2, 4, 1, 3, 5, 7], history, genre_calibration=50) == [1, 2, 3, 5, 7, 4]


def test_the_first_places_do_not_depend_on_how_many_are_asked_for() -> None:
    ranked, weights = [1, 3, 5, 7, 9, 2, 4, 6], {"genre_calibration": 3.0, "diversity": 0.5}
    whole = reranked(ranked, watched(9, 10, 2), **weights)
    for count in range(1, 9):
        part = reranked(ranked, watched(9, 10, 2), count=count, **weights)
        assert part[:count] == whole[:count]
        assert sorted(part) == sorted(ranked)


def test_only_the_best_are_chosen_from() -> None:
    assert reranked([1, 3, 5, 2, 4], watched(10), genre_calibration=50, depth=4) == [2, 1, 3, 5, 4]


def test_the_greedy_choice_is_that_of_the_formula() -> None:
    """Against Steck's definition, term by term, also for items without genres or a year."""
    rng = np.random.default_rng(4)
    genres, years = rng.random((60, 5)) < 0.3, rng.integers(1950, 2000, 60).astype(np.int16)
    years[:5], genres[3:9] = NO_YEAR, False
    items = Catalogue(np.arange(60, dtype=np.int64), years, genres, tuple("abcde"))
    asked = RerankPolicy(genre_calibration=1.3, decade_calibration=0.4, diversity=0.7, depth=30)
    for user in range(3):
        history, ranked = watched(*rng.permutation(60)[:20].tolist()), rng.permutation(60)[:40].astype(np.int64)
        order = Reranker(items, asked).order(ranked, history, 12)
        assert ranked[order][:12].tolist() == by_the_formula(items, asked, ranked, history, 12), user


def by_the_formula(
    items: Catalogue, asked: RerankPolicy, ranked: np.ndarray, history: History, count: int
) -> list[int]:
    shares = [
        (asked.genre_calibration, genre_shares(items.genres)),
        (asked.decade_calibration, decade_shares(items.years)),
    ]
    alike, chosen = cosines(items.genres), []
    while len(chosen) < count:
        gains = {}
        for place, item in enumerate(ranked[: asked.depth]):
            if item not in chosen:
                gain = -np.log2(place + 2) - asked.diversity * max([alike[item, above] for above in chosen], default=0)
                gain -= sum(w * divergence(s[history.item_ids].sum(0), s[[*chosen, item]].sum(0)) for w, s in shares)
                gains[int(item)] = gain
        chosen.append(max(gains, key=lambda item: gains[item]))
    return chosen


def divergence(past: np.ndarray, shown: np.ndarray) -> float:
    p = past / past.sum()
    q = (1 - MIXED_IN) * (shown / shown.sum() if shown.any() else shown) + MIXED_IN * p
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


def test_a_bonus_that_is_not_one_per_item_is_refused(tmp_path: Path) -> None:
    asked = RerankPolicy(exposure=1)
    with pytest.raises(BundleDamaged, match=r"exposure_bonus\.npy: cannot be read"):
        Reranker.open(tmp_path, catalogue(), asked)
    (tmp_path / "gateway").mkdir()
    for wrong in (np.zeros(3, np.float32), np.zeros(12), np.full(12, np.nan, np.float32)):
        np.save(tmp_path / BONUS_FILE, wrong)
        with pytest.raises(BundleDamaged, match=r"expected float32\(12,\), all finite; publish again"):
            Reranker.open(tmp_path, catalogue(), asked)
    np.save(tmp_path / BONUS_FILE, np.arange(12, dtype=np.float32))
    opened = Reranker.open(tmp_path, catalogue(), asked)
    assert opened.bonus is not None
    assert opened.bonus.tolist() == list(range(12))
    assert Reranker.open(tmp_path, catalogue(), RerankPolicy(diversity=1)).bonus is None


@pytest.mark.parametrize(("broken", "order"), [(False, [7, 2, 5, 3]), (True, [5, 2, 7, 3])])
async def test_the_served_order_is_re_ranked(*, broken: bool, order: list[int]) -> None:
    """Ranked 7 5 3 2; if the ranker fails, the blended order 5 7 3 2 is re-ranked."""
    items = catalogue()
    sources = [Fixed("popularity", [2]), Fixed("itemcf", [5, 3]), Fixed("vector", [7, 5])]
    reranker = Reranker(items, RerankPolicy(diversity=5.0))
    fallback = Fallback(items, np.asarray(POPULAR, np.int64))
    pipeline = Pipeline(items, policy(), sources, ById(broken=broken), fallback, reranker=reranker)
    (answer,) = await pipeline.run([Request(NO_HISTORY, 0, 4)], Budget.of(60.0))
    stage = answer.stages[-1]
    assert (stage.name, stage.status, stage.candidates_in, stage.candidates_out) == ("rerank", Status.OK, 4, 4)
    assert answer.candidates.item_ids.tolist() == order
    assert answer.scores.tolist() == pytest.approx([1 / np.log2(place + 1) for place in range(1, 5)])
    assert answer.degraded is broken


async def test_a_bundle_says_whether_its_answers_are_re_ranked(tmp_path: Path) -> None:
    asked = policy().model_copy(update={"rerank": RerankPolicy(genre_calibration=50)})
    async with gateway(tmp_path, asked) as world:
        response = await world.stub.Recommend(recommend_pb2.RecommendRequest(user_id=4, count=4, debug=True))
        assert [stage.name for stage in response.stages][-2:] == ["rank", "rerank"]
        genres = [item.item_id % 2 for item in response.items]
        assert genres in ([1, 0, 1, 0], [0, 1, 0, 1])
        similar = await world.stub.SimilarItems(recommend_pb2.SimilarItemsRequest(item_id=1, count=3))
        assert [item.item_id for item in similar.items] == [6, 7, 5]


def test_a_policy_that_does_not_rerank_reads_as_before() -> None:
    assert "rerank" not in policy().model_dump()
    assert "rerank" not in policy().model_dump_json()
    asked = policy().model_copy(update={"rerank": RerankPolicy(diversity=0.5)})
    assert ServingPolicy.model_validate_json(asked.model_dump_json()) == asked
