"""What a user does changes the next answer, survives the gateway, and hidden items stay hidden in every path."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recsys.v1 import types_pb2
from recsys.v1.recommend_pb2 import Event, RecordEventsRequest, SimilarItemsRequest
from tests.integration.live import CALL_SECONDS, System, item_ids, publish_again, system
from tests.waiting import eventually

pytestmark = pytest.mark.integration

RATING, DISLIKE, IMPRESSION = (
    types_pb2.EVENT_TYPE_RATING,
    types_pb2.EVENT_TYPE_DISLIKE,
    types_pb2.EVENT_TYPE_IMPRESSION,
)
EVEN_ITEMS = (2, 4, 6, 8)
RECALL = ("popularity", "itemcf", "vector")
HIDING_SECONDS = 10.0
"""The gateway looks at the file four times a second; the rest is for a busy machine and a request in between."""

BUDGET_SECONDS = 4.0
"""What an answer may take where nobody else answers."""


@dataclass(frozen=True)
class Shop:
    """Servers whose order follows taste (the blended one), and the file of hidden items."""

    running: System
    hidden_file: Path

    def ask(self, user: str, count: int = 10) -> list[int]:
        """What a user is recommended; nothing is degraded."""
        response = self.running.ask(user_key=user, count=count)
        assert not response.degraded, response.stages
        return item_ids(response)

    def record(self, *events: Event) -> tuple[int, int]:
        """How many were recorded, and how many were known."""
        response = self.running.gateway.RecordEvents(RecordEventsRequest(events=events), timeout=CALL_SECONDS)
        return response.recorded, response.duplicates

    def hide(self, *lines: object) -> None:
        """Replaces the list of hidden items."""
        written = self.hidden_file.with_suffix(".new")
        written.write_text("".join(f"{line}\n" for line in lines))
        written.replace(self.hidden_file)


@pytest.fixture(scope="module")
def shop(checkerboard_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Five servers on a bundle that is served in blended order."""
    folder = tmp_path_factory.mktemp("events")
    shutil.copytree(checkerboard_store, folder / "bundles")
    hidden = folder / "hidden.txt"
    hidden.touch()
    settings = {"budget-seconds": str(BUDGET_SECONDS), "hidden-items": str(hidden)}
    with system(folder / "bundles", folder, gateway_settings=settings) as running:
        version = publish_again(running.store, ranking="blended")
        eventually(lambda: running.all_active(version), "the blended order is served")
        yield Shop(running, hidden)


def event(user: str, item_id: int, kind: types_pb2.EventType.ValueType = RATING, **fields: Any) -> Event:
    """An event with an id of its own; a rating rates 4."""
    if kind == RATING:
        fields = {"value": 4.0} | fields
    known: dict[str, Any] = {"event_id": f"{user} {kind} {item_id}", "user_key": user, "item_id": item_id}
    return Event(type=kind, **(known | fields))


def test_a_rating_of_a_recommended_item_removes_it_and_changes_the_order(shop: Shop) -> None:
    before = shop.ask("ada")
    assert shop.record(event("ada", before[0], request_id="the answer")) == (1, 0)
    after = shop.ask("ada")
    assert before[0] not in after
    assert [item_id for item_id in after if item_id in before] != before[1:]


def test_a_new_user_gets_the_colour_of_what_they_rated_and_is_told_why(shop: Shop) -> None:
    cold = shop.ask("grace", count=40)
    assert shop.record(*[event("grace", item_id) for item_id in EVEN_ITEMS]) == (4, 0)
    response = shop.running.ask(user_key="grace", count=40)
    warm = item_ids(response)
    assert not set(EVEN_ITEMS) & set(warm)
    assert sum(item_id % 2 == 0 for item_id in warm[:20]) > sum(item_id % 2 == 0 for item_id in cold[:20])
    because = {
        item.item_id: reason.seed_item_id
        for item in response.items
        for reason in item.reasons
        if reason.channel == "itemcf"
    }
    assert len(because) >= 10
    assert all(item_id % 2 == 0 and seed in EVEN_ITEMS for item_id, seed in because.items())


def test_a_dislike_excludes_and_an_impression_does_nothing(shop: Shop) -> None:
    before = shop.ask("mary")
    assert shop.record(event("mary", before[0], IMPRESSION), event("mary", before[1], IMPRESSION)) == (2, 0)
    assert shop.ask("mary") == before
    assert shop.record(event("mary", before[2], DISLIKE)) == (1, 0)
    assert set(before) - set(shop.ask("mary", count=12)) == {before[2]}
    assert before[2] not in shop.ask("mary", count=80)


def test_events_of_one_user_change_nothing_for_another(shop: Shop) -> None:
    before = shop.ask("edith")
    shop.record(event("someone else", before[0]))
    assert shop.ask("edith") == before


def test_an_event_sent_twice_counts_once(shop: Shop) -> None:
    first, second = event("joan", 10), event("joan", 12)
    assert shop.record(first) == (1, 0)
    assert shop.record(first, second, second) == (1, 2)
    assert shop.record(first, second) == (0, 2)
    same_id = event("joan", 14, event_id=first.event_id)
    assert shop.record(same_id) == (0, 1)
    found = shop.ask("joan", count=80)
    assert not {10, 12} & set(found)
    assert 14 in found


def test_a_user_is_the_same_by_number_and_by_key(shop: Shop) -> None:
    assert shop.record(event("3", 5, user_id=3)) == (1, 0)
    assert 5 not in shop.ask("3", count=80)


def test_acknowledged_events_are_there_when_the_gateway_was_killed(shop: Shop) -> None:
    running = shop.running
    top = shop.ask("hedy")[0]
    assert shop.record(event("hedy", top)) == (1, 0)
    expected = shop.ask("hedy")
    killed = running.cluster.pids()["gateway"]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: running.cluster.pids()["gateway"] not in (0, killed), "the gateway is started again")
    running.settle()
    assert shop.ask("hedy") == expected
    assert top not in shop.ask("hedy", count=80)
    assert shop.record(event("hedy", top)) == (0, 1)


def shown(shop: Shop) -> list[set[int]]:
    """What each path shows: a warm user, a cold one, and similar items."""
    running = shop.running
    similar = running.gateway.SimilarItems(SimilarItemsRequest(item_id=2, count=80), timeout=CALL_SECONDS)
    answers = (running.ask(user_id=1, count=80), running.ask(count=80), similar)
    return [set(item_ids(answer)) for answer in answers]


def test_hidden_items_go_away_at_once_in_every_path_and_come_back(shop: Shop) -> None:
    assert all(75 in found and 79 in found for found in shown(shop)[1:])
    shop.hide("# rights", 75, "79", 999, "no such film")
    eventually(lambda: not any({75, 79} & found for found in shown(shop)), "they are hidden", seconds=HIDING_SECONDS)
    shop.hide()
    eventually(
        lambda: all({75, 79} <= found for found in shown(shop)[1:]), "they are shown again", seconds=HIDING_SECONDS
    )


def test_hidden_items_stay_hidden_when_only_the_fallback_is_left(shop: Shop) -> None:
    running = shop.running
    shop.hide(1, 3)
    eventually(lambda: not any({1, 3} & found for found in shown(shop)), "they are hidden", seconds=HIDING_SECONDS)
    pids = running.cluster.pids()
    stopped = [pids[role] for role in (*RECALL, "rank")]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        response = running.ask(user_key="nobody", count=10)
        assert time.monotonic() - started < BUDGET_SECONDS + 10
        assert response.degraded
        assert {reason.channel for item in response.items for reason in item.reasons} == {"fallback"}
        assert item_ids(response) == [2, *range(4, 13)]
        shop.hide(1, 3, 2)
        eventually(lambda: 2 not in item_ids(running.ask(user_key="nobody")), "it is hidden", seconds=HIDING_SECONDS)
        similar = running.gateway.SimilarItems(SimilarItemsRequest(item_id=8, count=10), timeout=CALL_SECONDS)
        assert item_ids(similar) == [4, 5, 6, 7, *range(9, 15)]
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        shop.hide()
    running.settle()
    eventually(lambda: {1, 2, 3} <= set(shop.ask("nobody", count=80)), "they are shown again", seconds=HIDING_SECONDS)
