"""What every recall channel must do, whatever its model. A channel's test class is three lines:

    class TestPopularity(ChannelConformance):
        @pytest.fixture
        def channel(self, world) -> Channel: ...

The world behind `channel` needs at least 12 items, two genres and a few known years, and the channel must know the
items of `history_item_ids` (default: every third item of the catalogue); override that method where it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from recall_server.channels.base import Channel
from recsys.catalogue import NO_YEAR
from recsys.domain import EventType, History, Ids, ItemFilter, RecallQuery, RecallResult
from recsys.errors import InvalidRequest
from recsys.ordering import order_by_score

NOW = 1_000_000_000
DAY = 86_400


def history_of(item_ids: Sequence[int] | Ids) -> History:
    """One rating a day, the last one a day before `NOW`; arrays are read-only, as those of a shared store may be."""
    n = len(item_ids)
    history = History.of(item_ids, [NOW - (n - position) * DAY for position in range(n)], values=[4.0] * n)
    for array in (history.item_ids, history.timestamps, history.types, history.values):
        array.flags.writeable = False
    return history


def assert_same(found: RecallResult, expected: RecallResult) -> None:
    """Same ids in the same order, same seeds, scores within 1e-5 relative."""
    assert found.item_ids.tolist() == expected.item_ids.tolist()
    assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
    assert (found.seed_item_ids is None) == (expected.seed_item_ids is None)
    if found.seed_item_ids is not None and expected.seed_item_ids is not None:
        assert found.seed_present is not None
        assert expected.seed_present is not None
        assert found.seed_present.tolist() == expected.seed_present.tolist()
        named = found.seed_present
        assert found.seed_item_ids[named].tolist() == expected.seed_item_ids[named].tolist()


class ChannelConformance:
    """Inherit, give a `channel` fixture, done."""

    needs_history: ClassVar[bool] = False
    """The channel has no candidates for a user without known history, and only those linked to it otherwise."""
    uses_history: ClassVar[bool] = True
    """Answers depend on the history."""
    exact: ClassVar[bool] = True
    """A filtered search returns exactly the filtered order; False for approximate search."""

    @pytest.fixture
    def channel(self) -> Channel:
        """The channel under test."""
        raise NotImplementedError

    def history_item_ids(self, channel: Channel) -> Ids:
        """Items that the channel has learned something about."""
        return channel.catalogue.item_ids[::3]

    def query(self, channel: Channel, **changes: Any) -> RecallQuery:
        """A warm user's query for the whole catalogue; `changes` are fields of `RecallQuery`."""
        fields: dict[str, Any] = {
            "history": history_of(self.history_item_ids(channel)),
            "as_of": NOW,
            "count": len(channel.catalogue),
        }
        return RecallQuery(**{**fields, **changes})

    def ask(self, channel: Channel, **changes: Any) -> RecallResult:
        """The answer to `query`, which must be well formed."""
        query = self.query(channel, **changes)
        [result] = channel.recall([query])
        self.check_form(channel, query, result)
        return result

    def check_form(self, channel: Channel, query: RecallQuery, result: RecallResult) -> None:
        """Order, ties, finiteness, uniqueness, count, types, and seeds that are facts."""
        assert result.item_ids.dtype == np.int64
        assert result.scores.dtype == np.float32
        assert len(result.scores) == len(result) <= query.count
        assert np.isfinite(result.scores).all()
        assert_array_equal(order_by_score(result.scores, result.item_ids), np.arange(len(result)))
        assert len(set(result.item_ids.tolist())) == len(result)
        assert (channel.catalogue.rows(result.item_ids) >= 0).all()
        assert (result.seed_item_ids is None) == (result.seed_present is None)
        if result.seed_item_ids is not None and result.seed_present is not None:
            assert len(result.seed_item_ids) == len(result.seed_present) == len(result)
            assert set(result.seed_item_ids[result.seed_present].tolist()) <= set(query.history.item_ids.tolist())

    def check_filtered(self, channel: Channel, allowed: set[int], **changes: Any) -> None:
        """With `changes` the answer is the unfiltered order less what is not allowed, and `count` is still met."""
        everything = [item_id for item_id in self.ask(channel).item_ids.tolist() if item_id in allowed]
        assert everything, "the world of this test allows nothing: choose another one"
        for count in {1, max(len(everything) - 1, 1), len(everything)}:
            found = self.ask(channel, count=count, **changes).item_ids.tolist()
            assert len(found) == count
            assert set(found) <= allowed
            if self.exact:
                assert found == everything[:count]

    def test_has_a_name_and_says_how_much_history_it_needs(self, channel: Channel) -> None:
        assert channel.name
        assert channel.history_limit is None or channel.history_limit >= 0
        assert self.needs_history is False or channel.history_limit != 0

    def test_answers_in_order_and_with_every_item_it_knows(self, channel: Channel) -> None:
        found = self.ask(channel)
        assert len(found) == len(channel.catalogue) if not self.needs_history else len(found) > 0

    def test_meets_every_count_with_the_head_of_the_order(self, channel: Channel) -> None:
        everything = self.ask(channel)
        for count in (1, 2, len(everything) // 2, len(everything)):
            found = self.ask(channel, count=count)
            assert len(found) == count
            if self.exact:
                assert found.item_ids.tolist() == everything.item_ids[:count].tolist()

    def test_a_count_beyond_the_catalogue_gives_what_there_is(self, channel: Channel) -> None:
        assert_same(self.ask(channel, count=2_000), self.ask(channel))

    def test_excluded_items_never_come_back_and_count_is_met(self, channel: Channel) -> None:
        best = self.ask(channel).item_ids[: len(self.ask(channel)) // 2]
        self.check_filtered(
            channel, set(channel.catalogue.item_ids.tolist()) - set(best.tolist()), exclude_item_ids=best
        )

    def test_excluding_everything_gives_nothing(self, channel: Channel) -> None:
        assert len(self.ask(channel, exclude_item_ids=channel.catalogue.item_ids)) == 0

    def test_unknown_and_repeated_exclusions_change_nothing(self, channel: Channel) -> None:
        best = self.ask(channel).item_ids[:2]
        unknown = np.asarray([-5, channel.catalogue.item_ids.max() + 1], np.int64)
        assert_same(
            self.ask(channel, exclude_item_ids=np.concatenate([best, unknown, best])),
            self.ask(channel, exclude_item_ids=best),
        )

    def test_genre_filters_are_pushed_down(self, channel: Channel) -> None:
        known = self.ask(channel).item_ids
        genres = channel.catalogue.genres[channel.catalogue.rows(known)]
        column = int(np.flatnonzero(genres.any(axis=0) & ~genres.all(axis=0))[0])
        name = channel.catalogue.genre_names[column]
        members = set(known[genres[:, column]].tolist())
        self.check_filtered(channel, members, item_filter=ItemFilter(genres_any=(name,)))
        self.check_filtered(channel, set(known.tolist()) - members, item_filter=ItemFilter(genres_none=(name,)))

    def test_year_filters_are_pushed_down(self, channel: Channel) -> None:
        known = self.ask(channel).item_ids
        years = channel.catalogue.years[channel.catalogue.rows(known)]
        middle = int(np.median(years[years != NO_YEAR]))
        for item_filter, passes in (
            (ItemFilter(min_year=middle), years >= middle),
            (ItemFilter(max_year=middle), (years != NO_YEAR) & (years <= middle)),
        ):
            self.check_filtered(channel, set(known[passes].tolist()), item_filter=item_filter)

    def test_a_filter_that_nothing_passes_gives_nothing(self, channel: Channel) -> None:
        assert len(self.ask(channel, item_filter=ItemFilter(min_year=9_999))) == 0

    def test_an_unknown_genre_is_the_callers_mistake(self, channel: Channel) -> None:
        with pytest.raises(InvalidRequest, match="no such genre"):
            self.ask(channel, item_filter=ItemFilter(genres_any=("no such genre",)))

    def test_a_batch_is_answered_like_its_queries_one_by_one(self, channel: Channel) -> None:
        """To the last bit: nobody's answer may depend on who else is in the batch."""
        batch = self.mixed_queries(channel)
        together = channel.recall(batch)
        assert len(together) == len(batch)
        for query, found in zip(batch, together, strict=True):
            self.check_form(channel, query, found)
            alone = channel.recall([query])[0]
            assert_same(found, alone)
            assert found.scores.tobytes() == alone.scores.tobytes()

    def test_an_empty_batch_has_no_answers(self, channel: Channel) -> None:
        assert channel.recall([]) == []

    def test_threads_do_not_disturb_each_other(self, channel: Channel) -> None:
        batch = self.mixed_queries(channel)
        expected = [channel.recall([query])[0] for query in batch]
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda query: channel.recall([query])[0], batch * 4)
            for found, wanted in zip(answers, expected * 4, strict=True):
                assert_same(found, wanted)

    def mixed_queries(self, channel: Channel) -> list[RecallQuery]:
        """Warm, cold, filtered and short queries."""
        ids = self.history_item_ids(channel)
        return [
            self.query(channel),
            self.query(channel, history=History.empty()),
            self.query(channel, history=history_of(ids[:1]), count=3),
            self.query(channel, exclude_item_ids=ids),
            self.query(channel, history=history_of(ids[::-1]), as_of=NOW + 30 * DAY),
        ]

    def test_a_cold_user_gets_full_lists_or_none(self, channel: Channel) -> None:
        found = self.ask(channel, history=History.empty())
        assert len(found) == (0 if self.needs_history else len(channel.catalogue))

    def test_unknown_items_of_the_history_are_ignored(self, channel: Channel) -> None:
        ids = self.history_item_ids(channel)
        unknown = int(channel.catalogue.item_ids.max()) + 7
        times = NOW - DAY * np.arange(len(ids), 0, -1)
        plain = History.of(ids, times)
        mixed = History.of(
            np.append(np.insert(ids, 1, -unknown), unknown), np.append(np.insert(times, 1, times[0]), NOW)
        )
        assert_same(self.ask(channel, history=mixed), self.ask(channel, history=plain))

    def test_a_history_of_unknown_items_only_is_an_empty_one(self, channel: Channel) -> None:
        unknown = history_of([int(channel.catalogue.item_ids.max()) + 7])
        assert_same(self.ask(channel, history=unknown), self.ask(channel, history=History.empty()))

    def test_repeated_events_are_answered(self, channel: Channel) -> None:
        item_id = int(self.history_item_ids(channel)[0])
        repeated = History.of([item_id] * 5, [NOW - DAY] * 5, types=[EventType.VIEW] * 5)
        assert len(self.ask(channel, history=repeated)) == len(self.ask(channel, history=history_of([item_id])))

    def test_events_of_every_type_and_without_values_are_answered(self, channel: Channel) -> None:
        ids = self.history_item_ids(channel)[:4]
        sequence = [EventType.VIEW, EventType.CLICK, EventType.SAVE, EventType.LIKE][: len(ids)]
        found = self.ask(channel, history=History.of(ids, [NOW] * len(ids), types=sequence))
        assert len(found) == len(self.ask(channel, history=history_of(ids)))

    @pytest.mark.parametrize("as_of", [0, NOW - 10_000 * DAY, NOW, NOW + 100_000 * DAY])
    def test_any_time_gets_an_answer(self, channel: Channel, as_of: int) -> None:
        assert len(self.ask(channel, as_of=as_of)) == len(self.ask(channel))

    def test_the_same_question_has_the_same_answer(self, channel: Channel) -> None:
        first, second = self.ask(channel), self.ask(channel)
        assert first.item_ids.tolist() == second.item_ids.tolist()
        assert first.scores.tobytes() == second.scores.tobytes()

    def test_the_history_matters(self, channel: Channel) -> None:
        ids = self.history_item_ids(channel)
        one, other = (self.ask(channel, history=history_of(part)) for part in (ids[:1], ids[-1:]))
        same = one.item_ids.tolist() == other.item_ids.tolist() and np.allclose(one.scores, other.scores)
        assert same != self.uses_history
