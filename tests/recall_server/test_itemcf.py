"""The ItemCF channel: contract, the sum it promises, seeds that are facts, and files that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from offline.recall.itemcf.training import ItemCFConfig, train
from recall_server.channels.base import Channel
from recall_server.channels.itemcf import (
    FACTS_FILE,
    NEIGHBOURS_FILE,
    WEIGHTS_FILE,
    ItemCFChannel,
    ItemCFFacts,
    ValueScale,
)
from recall_server.channels.registry import channel_class
from recsys.catalogue import Catalogue
from recsys.domain import EventType, History, RecallQuery, RecallResult
from recsys.errors import BundleDamaged, BundleMismatch
from tests.recall_server.conformance import DAY, NOW, ChannelConformance, history_of
from tests.recall_server.toy import checkerboard

STARS = ValueScale(low=1, high=5, floor=0.2)


def channel_of(links: list[list[float]], *, half_life_days: float | None = None) -> ItemCFChannel:
    """A channel over items 10, 20, …: `links[i][j]` is the weight from item i to item j, 0 none."""
    weights = np.asarray(links, np.float32)
    n = len(weights)
    neighbours = np.where(weights > 0, np.arange(n), n).astype(np.int32)
    catalogue = Catalogue(
        10 * np.arange(1, n + 1), np.full(n, 1990, np.int16), np.zeros((n, 0), np.bool_), genre_names=()
    )
    facts = ItemCFFacts(items=n, neighbours=n, ease_items=n, value_scale=STARS, half_life_days=half_life_days)
    return ItemCFChannel(catalogue, facts, neighbours=neighbours, weights=weights)


def ask(channel: Channel, history: History, count: int = 100) -> RecallResult:
    """The answer to one history."""
    [result] = channel.recall([RecallQuery(history, NOW, count)])
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained checkerboard."""
    snapshot = checkerboard(12, 16)
    snapshot.catalogue.save(tmp_path)
    train(snapshot, ItemCFConfig(reg=1), tmp_path)
    return tmp_path


class TestItemCFConformance(ChannelConformance):
    needs_history = True

    @pytest.fixture
    def channel(self, folder: Path) -> Channel:
        return ItemCFChannel.open(folder)


class TestItemCFWithFewNeighboursConformance(ChannelConformance):
    needs_history = True

    @pytest.fixture
    def channel(self, tmp_path: Path) -> Channel:
        snapshot = checkerboard(12, 16)
        snapshot.catalogue.save(tmp_path)
        train(snapshot, ItemCFConfig(reg=1, n_neighbours=4, ease_items=7), tmp_path)
        return ItemCFChannel.open(tmp_path)


def test_an_item_scores_the_sum_of_what_the_past_items_contribute() -> None:
    channel = channel_of([[0, 0.5, 0.2, 0], [0, 0, 0.4, 0.1], [0.3, 0, 0, 0], [0, 0, 0, 0]])
    found = ask(channel, History.of([10, 20], [NOW, NOW], values=[5.0, 3.0]))
    assert found.item_ids.tolist() == [20, 30, 40]
    assert_allclose(found.scores, [0.5, 0.2 + 0.4 * 0.6, 0.1 * 0.6], rtol=1e-6)


def test_the_seed_is_the_past_item_that_contributed_most() -> None:
    channel = channel_of([[0, 0, 0.2, 0.1], [0, 0, 0.3, 0.1], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = ask(channel, History.of([10, 20], [NOW, NOW], values=[5.0, 3.0]))
    assert found.item_ids.tolist() == [30, 40]
    assert found.seed_item_ids is not None
    assert found.seed_item_ids.tolist() == [10, 10]
    found = ask(channel, History.of([10, 20], [NOW, NOW], values=[3.0, 5.0]))
    assert found.seed_item_ids is not None
    assert found.seed_item_ids.tolist() == [20, 20]
    assert found.seed_present is not None
    assert found.seed_present.tolist() == [True, True]


def test_scores_and_seeds_equal_the_dense_computation() -> None:
    rng = np.random.default_rng(7)
    links = np.where(rng.random((60, 60)) < 0.3, rng.random((60, 60)), 0).astype(np.float32)
    channel = channel_of(links.tolist(), half_life_days=3)
    history = History.of(10 * (1 + rng.choice(60, 20, replace=False)), NOW - DAY * np.arange(20)[::-1])
    rows, weights = channel.history_weights(history)
    contributions = weights[:, None] * links[rows]
    found = ask(channel, history)
    found_rows = channel.catalogue.rows(found.item_ids)
    assert set(found_rows.tolist()) == set(np.flatnonzero(contributions.sum(axis=0)).tolist())
    assert_allclose(found.scores, contributions.sum(axis=0)[found_rows], rtol=1e-5)
    assert found.seed_item_ids is not None
    expected = channel.catalogue.item_ids[rows[contributions.argmax(axis=0)[found_rows]]]
    assert found.seed_item_ids.tolist() == expected.tolist()


def test_the_whole_history_is_read_however_long_it_is() -> None:
    """Only the oldest of 300 past items links to anything."""
    n = 301
    links = np.zeros((n, n))
    links[0, n - 1] = 0.5
    found = ask(channel_of(links.tolist()), history_of([10 * place for place in range(1, n)]))
    assert ItemCFChannel.history_limit is None
    assert (found.item_ids.tolist(), found.scores.tolist()) == ([10 * n], pytest.approx([0.5 * 0.8]))


def test_weights_are_type_times_value_times_recency() -> None:
    channel = channel_of(np.ones((5, 5)).tolist(), half_life_days=10)
    history = History.of(
        [50, 40, 30, 20],
        [NOW - 20 * DAY, NOW - 10 * DAY, NOW, NOW],
        types=[EventType.RATING, EventType.RATING, EventType.CLICK, EventType.SAVE],
        values=[5.0, 1.0, np.nan, np.nan],
    )
    rows, weights = channel.history_weights(history)
    assert rows.tolist() == [1, 2, 3, 4]
    assert_allclose(weights, [0.5, 0.3, 0.2 * 0.5, 0.25], rtol=1e-6)


def test_several_events_of_one_item_count_once_at_most() -> None:
    channel = channel_of(np.ones((5, 5)).tolist())
    history = History.of([20] * 9, [NOW] * 9, types=[EventType.CLICK] * 2 + [EventType.VIEW] * 7)
    assert channel.history_weights(history)[1].tolist() == [1]
    clicks = History.of([20] * 2, [NOW] * 2, types=[EventType.CLICK] * 2)
    assert_allclose(channel.history_weights(clicks)[1], [0.6], rtol=1e-6)


def test_a_user_who_returns_after_decades_still_has_a_taste() -> None:
    channel = channel_of([[0, 0.5, 0.2], [0, 0, 0.4], [0, 0, 0]], half_life_days=1)
    history = History.of([10, 20], [NOW - 9_000 * DAY, NOW - 9_000 * DAY])
    assert ask(channel, history).item_ids.tolist() == [30, 20]


def test_the_recent_past_weighs_more() -> None:
    channel = channel_of([[0, 0, 0.5, 0], [0, 0, 0, 0.4], [0, 0, 0, 0], [0, 0, 0, 0]], half_life_days=5)
    earlier, later = NOW - 30 * DAY, NOW
    assert ask(channel, History.of([20, 10], [earlier, later])).item_ids.tolist() == [30, 40]
    assert ask(channel, History.of([10, 20], [earlier, later])).item_ids.tolist() == [40, 30]


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 0.2), (3, 0.6), (5, 1.0), (-7, 0.2), (99, 1.0), (np.nan, 1.0), (np.inf, 1.0)]
)
def test_a_value_is_evidence_between_the_floor_and_one(value: float, expected: float) -> None:
    assert STARS.evidence(np.asarray([value], np.float32))[0] == pytest.approx(expected)


def test_values_without_a_range_count_in_full() -> None:
    scale = ValueScale(low=2, high=2, floor=0.1)
    assert scale.evidence(np.asarray([2, 1, np.nan], np.float32)).tolist() == [1, 1, 1]


def test_a_value_below_the_least_is_no_evidence() -> None:
    values = np.asarray([1, 3, 4, 5, np.nan], np.float32)
    assert STARS.model_copy(update={"least": 4}).evidence(values).tolist() == pytest.approx([0, 0, 0.8, 1, 1])
    liked = ValueScale(low=1, high=5, floor=1, least=4)
    assert liked.evidence(values).tolist() == [0, 0, 1, 1, 1]


def test_arrays_are_mapped_not_read(folder: Path) -> None:
    channel = ItemCFChannel.open(folder)
    mapped = Path("/proc/self/maps").read_text()
    assert [str(folder / file) in mapped for file in (NEIGHBOURS_FILE, WEIGHTS_FILE)] == [True, True]
    assert channel_class("itemcf") is ItemCFChannel
    assert type(channel) is ItemCFChannel


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        (NEIGHBOURS_FILE, np.zeros((16, 3), np.int32)),
        (NEIGHBOURS_FILE, np.zeros((16, 16), np.int64)),
        (WEIGHTS_FILE, np.zeros(16, np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder: Path, file: str, wrong: np.ndarray) -> None:
    np.save(folder / file, wrong)
    with pytest.raises(BundleMismatch, match=rf"{file}: .*expected (int32|float32)\[16, 16\].*publish again"):
        ItemCFChannel.open(folder)


def test_facts_of_another_catalogue_are_refused(folder: Path) -> None:
    checkerboard(4, 6).catalogue.save(folder)
    with pytest.raises(BundleMismatch, match="16 items, the catalogue has 6; train and publish again"):
        ItemCFChannel.open(folder)


@pytest.mark.parametrize("text", ["{", "{}", '{"items": 16, "unknown": 1}', "\xff"])
def test_facts_that_cannot_be_read_are_damage(folder: Path, text: str) -> None:
    (folder / FACTS_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(BundleDamaged, match=rf"{FACTS_FILE}: .*publish again"):
        ItemCFChannel.open(folder)


def test_the_missing_item_of_the_checkerboard_comes_first(folder: Path) -> None:
    channel = ItemCFChannel.open(folder)
    for user in range(12):
        taken = [item + 1 for item in range(16) if (user + item) % 2 == 0 and user != item]
        [found] = channel.recall([RecallQuery(history_of(taken), NOW, 1, np.asarray(taken))])
        assert found.item_ids.tolist() == [user + 1]
