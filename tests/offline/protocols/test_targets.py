"""Requests see what was known at their moment, and nothing seen is a target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from offline.dataset.interactions import Dataset, Interactions
from offline.dataset.splits import Window
from offline.protocols.targets import targets_of
from recsys.domain import EventType
from tests.offline.tastes import items_of

EVENTS = [  # user, item, time, type
    (1, 1, 10, EventType.RATING),
    (1, 2, 20, EventType.RATING),
    (2, 1, 30, EventType.IMPRESSION),
    (1, 3, 101, EventType.RATING),
    (2, 4, 102, EventType.RATING),
    (1, 2, 103, EventType.RATING),
    (1, 5, 103, EventType.VIEW),
    (1, 6, 104, EventType.DISLIKE),
    (2, 4, 105, EventType.VIEW),
    (3, 7, 106, EventType.RATING),
    (3, 8, 300, EventType.RATING),
]


def world() -> Dataset:
    users, items, times, types = (list(column) for column in zip(*EVENTS, strict=True))
    return Dataset(
        "toy",
        Interactions(
            np.asarray(users, np.int64),
            np.asarray(items, np.int64),
            np.asarray(times, np.int64),
            np.asarray(types, np.int8),
            np.full(len(users), np.nan, np.float32),
        ),
        items_of(),
    )


WINDOW = Window(100, 200)


def test_all_asks_once_per_user_at_the_cutoff() -> None:
    dataset = world()
    targets = targets_of("all", dataset, dataset.snapshot(100), WINDOW)
    assert targets.user_ids.tolist() == [1, 2, 3]
    assert targets.warm.tolist() == [True, True, False]
    assert [request.as_of for request in targets.requests] == [100] * 3
    assert [request.history.item_ids.tolist() for request in targets.requests] == [[1, 2], [1], []]
    assert np.split(targets.relevant.item_ids, targets.relevant.indptr[1:-1])[0].tolist() == [3, 5]
    assert targets.relevant.counts.tolist() == [2, 1, 1]


def test_successive_asks_once_per_new_item_with_the_history_until_then() -> None:
    dataset = world()
    targets = targets_of("successive", dataset, dataset.snapshot(100), WINDOW)
    asked = [(request.user_id, request.as_of, request.history.item_ids.tolist()) for request in targets.requests]
    assert asked == [(1, 101, [1, 2]), (2, 102, [1]), (1, 103, [1, 2, 3, 2]), (3, 106, [])]
    assert targets.relevant.item_ids.tolist() == [3, 4, 5, 7]
    assert targets.warm.tolist() == [True, True, True, False]


def test_last_asks_once_per_user_for_the_last_new_item_with_the_history_until_then() -> None:
    dataset = world()
    targets = targets_of("last", dataset, dataset.snapshot(100), WINDOW)
    asked = [(request.user_id, request.as_of, request.history.item_ids.tolist()) for request in targets.requests]
    assert asked == [(2, 102, [1]), (1, 103, [1, 2, 3, 2]), (3, 106, [])]
    assert targets.relevant.item_ids.tolist() == [4, 5, 7]
    assert targets.values is not None
    assert len(targets.values) == 3


def test_what_comes_after_the_window_changes_nothing() -> None:
    dataset = world()
    short = replace(dataset, interactions=dataset.interactions.until(200))
    for kind in ("all", "successive", "last"):
        whole = targets_of(kind, dataset, dataset.snapshot(100), WINDOW)
        cut = targets_of(kind, short, short.snapshot(100), WINDOW)
        assert whole.relevant.item_ids.tolist() == cut.relevant.item_ids.tolist()


def test_users_are_drawn_with_the_seed() -> None:
    dataset = world()
    drawn = [
        targets_of("all", dataset, dataset.snapshot(100), WINDOW, max_users=2, seed=s).user_ids.tolist() for s in (4, 4)
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 2


def test_values_are_those_of_the_last_event_of_each_item() -> None:
    dataset = world()
    values = np.arange(len(EVENTS), dtype=np.float32)
    dataset = replace(dataset, interactions=replace(dataset.interactions, values=values))
    snapshot = dataset.snapshot(100)
    assert targets_of("all", dataset, snapshot, WINDOW).values.tolist() == [3, 6, 8, 9]
    assert targets_of("successive", dataset, snapshot, WINDOW).values.tolist() == [3, 4, 6, 9]
