"""The popularity channel: contract, order, preferred genres, and files that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline.recall.popularity import PopularityConfig, ReturningConfig, Signal, train
from recall_server.channels.base import Channel
from recall_server.channels.popularity import (
    GENRE_SCALES_FILE,
    RETURNING_FACTS_FILE,
    RETURNING_SCORES_FILE,
    SCORES_FILE,
    PopularityChannel,
)
from recall_server.channels.registry import channel_class
from recsys.channels import CHANNELS
from recsys.domain import History, RecallQuery, RecallResult
from recsys.errors import BundleDamaged, BundleMismatch, InvalidRequest
from tests.recall_server.conformance import DAY, NOW, ChannelConformance, history_of
from tests.recall_server.toy import checkerboard, snapshot_of

GENRES = {1: "Drama", 2: "Drama", 3: "Comedy", 4: "Comedy|Drama", 5: "Western", 6: "Western", 7: ""}
COUNTS = {1: 8, 2: 6, 3: 4, 4: 2, 5: 1}
"""Events per item; 6 and 7 were never taken."""


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
