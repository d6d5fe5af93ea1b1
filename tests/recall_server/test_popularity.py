"""The popularity channel: contract, order, preferred genres, and files that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from offline.recall.popularity import PopularityConfig, ReturningConfig, Signal, train
from recall_server.channels import popularity
from recall_server.channels.base import Channel
from recall_server.channels.popularity import (
    GENRE_SCALES_FILE,
    RETURNING_FACTS_FILE,
    RETURNING_SCORES_FILE,
    SCORES_FILE,
    PopularityChannel,
    PopularityScores,
)
from recall_server.channels.registry import channel_class
from recsys.catalogue import Catalogue
from recsys.channels import CHANNELS
from recsys.domain import History, ItemFilter, RecallQuery, RecallResult
from recsys.errors import BundleDamaged, BundleMismatch, InvalidRequest
from recsys.ordering import order_by_score
from tests.recall_server.conformance import DAY, NOW, ChannelConformance, history_of
from tests.recall_server.toy import checkerboard, snapshot_of

GENRES = {1: "Drama", 2: "Drama", 3: "Comedy", 4: "Comedy|Drama", 5: "Western", 6: "Western", 7: ""}
COUNTS = {1: 8, 2: 6, 3: 4, 4: 2, 5: 1}
"""Events per item; 6 and 7 were never taken."""
NAMES = ("Comedy", "Drama", "War", "Western")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Trained on `COUNTS`."""
    events = [(user, item, 1.0) for item, n in COUNTS.items() for user in range(n)]
    snapshot = snapshot_of(events, GENRES)
    snapshot.catalogue.save(tmp_path)
    train(snapshot, PopularityConfig(signals=(Signal(weight=1),)), tmp_path)
    return tmp_path


def ask(channel: Channel, *preferred_genres: str, count: int = 10) -> RecallResult:
    """A cold user's answer."""
    [result] = channel.recall([RecallQuery(History.empty(), NOW, count, preferred_genres=preferred_genres)])
    return result


class TestPopularityConformance(ChannelConformance):
    uses_history = False

    @pytest.fixture
    def channel(self, tmp_path: Path) -> Channel:
        snapshot = checkerboard(12, 16)
        snapshot.catalogue.save(tmp_path)
        train(snapshot, PopularityConfig(), tmp_path)
        return PopularityChannel.open(tmp_path)


def test_most_popular_first_and_unseen_items_last_by_id(folder: Path) -> None:
    found = ask(PopularityChannel.open(folder))
    assert found.item_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.scores.tolist() == [1.0, 0.75, 0.5, 0.25, 0.125, 0.0, 0.0]


def test_preferred_genres_come_first_then_the_global_order(folder: Path) -> None:
    channel = PopularityChannel.open(folder)
    assert ask(channel, "Western").item_ids.tolist() == [5, 6, 1, 2, 3, 4, 7]
    assert ask(channel, "Western").scores.tolist() == [3.0, 2.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert ask(channel, "Western", count=3).item_ids.tolist() == [5, 6, 1]


def test_a_small_genre_is_not_dominated_by_a_big_one(folder: Path) -> None:
    found = ask(PopularityChannel.open(folder), "Drama", "Western")
    assert found.item_ids.tolist() == [1, 5, 2, 4, 6, 3, 7]
    assert found.scores[:2].tolist() == [2.5, 2.5]


def test_items_of_two_preferred_genres_gain_from_both(folder: Path) -> None:
    found = ask(PopularityChannel.open(folder), "Drama", "Comedy", "Drama")
    assert found.item_ids.tolist() == [1, 3, 2, 4, 5, 6, 7]
    assert found.scores[3] == pytest.approx(2 + (0.25 / 1 + 0.25 / 0.5) / 2)


@pytest.fixture
def returning(tmp_path: Path) -> PopularityChannel:
    """Eight new users took item 1 on day 20; the two who came back ten days later took item 5, and one item 4."""
    events = [(user, 1, 20.0) for user in range(8)] + [(0, 5, 10.0), (1, 5, 10.0), (1, 4, 9.0)]
    theirs = ReturningConfig(after_hours=168, signals=(Signal(returning=True, weight=1),))
    config = PopularityConfig(signals=(Signal(weight=1),), returning=theirs)
    snapshot = snapshot_of(events, GENRES)
    snapshot.catalogue.save(tmp_path)
    train(snapshot, config, tmp_path)
    return PopularityChannel.open(tmp_path)


def test_a_returning_user_gets_what_other_returning_users_took(returning: PopularityChannel) -> None:
    def head(history: History, as_of: int) -> list[int]:
        [result] = returning.recall([RecallQuery(history, as_of, 3)])
        return result.item_ids.tolist()

    new_users, returned = [1, 5, 4], [5, 4, 1]
    first = History.of([2, 3], [NOW - 7 * DAY, NOW])
    assert head(History.empty(), NOW) == new_users
    assert head(first, NOW) == new_users
    assert head(first, NOW + 1) == returned
    assert head(History.of([2], [NOW - 900 * DAY]), NOW) == returned
    assert head(History.of([999], [NOW - 900 * DAY]), NOW) == new_users, "an unknown item says nothing"


def test_preferred_genres_of_a_returning_user_are_ordered_by_their_list(returning: PopularityChannel) -> None:
    [result] = returning.recall([RecallQuery(history_of([6]), NOW + 900 * DAY, 3, preferred_genres=("Western",))])
    assert result.item_ids.tolist() == [5, 6, 4]
    assert result.scores.tolist() == [3.0, 2.0, 0.5]


def test_returning_files_that_do_not_fit_are_refused(returning: PopularityChannel, tmp_path: Path) -> None:
    assert ask(returning).item_ids[0] == 1
    np.save(tmp_path / RETURNING_SCORES_FILE, np.zeros(3, np.float32))
    with pytest.raises(BundleMismatch, match=r"returning_scores\.npy: float32\[3\], expected finite float32\[7\]"):
        PopularityChannel.open(tmp_path)
    (tmp_path / RETURNING_FACTS_FILE).write_text("{}")
    with pytest.raises(BundleDamaged, match="after_hours"):
        PopularityChannel.open(tmp_path)


@st.composite
def crowded(draw: st.DrawFn) -> tuple[PopularityChannel, RecallQuery]:
    """A few dozen items with many equal scores, and any filter, exclusions and preference."""
    rng, n = np.random.default_rng(draw(st.integers(0, 999))), draw(st.integers(1, 60))
    ids = np.sort(rng.choice(200, n, replace=False)).astype(np.int64)
    catalogue = Catalogue(
        ids, rng.integers(1990, 1994, n).astype(np.int16), rng.random((n, 4)) < draw(st.sampled_from([0.1, 0.6])), NAMES
    )
    scores = (rng.integers(0, 4, n) / 4).astype(np.float32)
    channel = PopularityChannel(catalogue, PopularityScores.of(scores, catalogue))
    names = st.lists(st.sampled_from(NAMES), max_size=4, unique=True).map(tuple)
    item_filter = ItemFilter(draw(names), draw(names), draw(st.none() | st.integers(1989, 1995)))
    excluded = rng.choice(ids, draw(st.integers(0, n)), replace=False)
    count = draw(st.integers(1, 70))
    return channel, RecallQuery(History.empty(), NOW, count, excluded, item_filter, draw(names))


@given(crowded(), st.sampled_from([1, 3, 1_000]))
def test_the_answer_is_the_head_of_the_full_order(world: tuple[PopularityChannel, RecallQuery], head: int) -> None:
    """Also where the part of a genre order that is kept is too short."""
    channel, query = world
    catalogue, scores = channel.catalogue, channel._everybody.scores.astype(np.float64)
    if query.preferred_genres:
        columns = [NAMES.index(name) for name in query.preferred_genres]
        members, scales = catalogue.genres[:, columns], channel._everybody.genre_scales[columns]
        shares = np.where(members & (scales > 0), scores[:, None] / np.where(scales > 0, scales, 1), 0)
        scores = np.where(members.any(axis=1), 2 + shares.sum(axis=1) / len(columns), scores)
    allowed = catalogue.passes(query.item_filter, slice(None)) & ~np.isin(catalogue.item_ids, query.exclude_item_ids)
    order = np.lexsort((catalogue.item_ids, -scores.round(6)))
    expected = order[allowed[order]][: query.count]
    with patch.object(popularity, "HEAD_ROWS", head):
        for _ in range(2):
            [found] = channel.recall([query])
            assert_allclose(found.scores, scores[expected], atol=1e-5)
            assert_array_equal(order_by_score(found.scores, found.item_ids), np.arange(len(found)))
            if len(query.preferred_genres) <= 1:
                assert found.item_ids.tolist() == catalogue.item_ids[expected].tolist()


def test_the_order_of_a_genre_is_made_once_and_per_kind_of_user(returning: PopularityChannel) -> None:
    warm = RecallQuery(history_of([6]), NOW + 900 * DAY, 7, preferred_genres=("Western", "Western"))
    cold = replace(warm, history=History.empty(), preferred_genres=("Western",))
    answers = [returning.recall([query])[0].item_ids.tolist() for query in (warm, cold, warm, cold)]
    assert answers[:2] == answers[2:]
    assert answers[0] != answers[1]
    assert len(returning._heads) == 2


def test_an_unknown_preferred_genre_is_the_callers_mistake(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"preferred_genres: unknown genre 'Opera'.*Comedy"):
        ask(PopularityChannel.open(folder), "Opera")


@pytest.mark.parametrize("file", [SCORES_FILE, GENRE_SCALES_FILE])
@pytest.mark.parametrize("wrong", [np.ones(99, np.float32), np.ones(7), np.full(7, np.nan, np.float32)])
def test_files_that_do_not_fit_are_refused(folder: Path, file: str, wrong: np.ndarray) -> None:
    np.save(folder / file, wrong)
    with pytest.raises(BundleMismatch, match=rf"{file}: .*expected finite float32\[\d\].*publish again"):
        PopularityChannel.open(folder)


def test_the_registry_knows_every_channel_and_names_them() -> None:
    assert channel_class("popularity") is PopularityChannel
    with pytest.raises(InvalidRequest, match=r"no recall channel 'popular'; choose one of popularity, itemcf, vector"):
        channel_class("popular")
    assert list(CHANNELS) == ["popularity", "itemcf", "vector", "als", "content"]
