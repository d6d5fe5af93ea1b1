"""Small worlds with known answers, as training sees them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offline.dataset.interactions import Interactions, Items, Snapshot
from recsys.domain import EventType

NOW = 1_000_000_000
DAY = 86_400

Event = tuple[int, int, float] | tuple[int, int, float, float] | tuple[int, int, float, float, EventType]
"""User, item, age in days at `NOW`, then optionally value (NaN: none) and type."""


def snapshot_of(
    events: Sequence[Event], genres_by_item: dict[int, str], *, years: dict[int, int] | None = None
) -> Snapshot:
    """A snapshot at `NOW`; `genres_by_item` names each item's genres, separated by `|`, and makes the catalogue."""
    item_ids = np.asarray(sorted(genres_by_item), np.int64)
    names = tuple(sorted({name for text in genres_by_item.values() for name in text.split("|") if name}))
    flags = [[name in genres_by_item[item_id].split("|") for name in names] for item_id in item_ids.tolist()]
    texts = np.asarray([f"item {item_id}" for item_id in item_ids], np.object_)
    items = Items(
        item_ids,
        texts,
        texts,
        np.asarray([(years or {}).get(item_id, 1980 + item_id % 40) for item_id in item_ids.tolist()], np.int16),
        np.zeros(len(item_ids), np.int64),
        np.asarray(flags, np.bool_).reshape(len(item_ids), len(names)),
        names,
        None,
        *np.full((2, len(item_ids)), np.nan, np.float32),
    )
    full = [(*event, *(float("nan"), EventType.RATING)[len(event) - 3 :]) for event in events]
    users, rated, ages, values, types = zip(*full, strict=True) if full else ((), (), (), (), ())
    timestamps = np.asarray([NOW - round(age * DAY) for age in ages], np.int64)
    interactions = Interactions(
        np.asarray(users, np.int64),
        np.asarray(rated, np.int64),
        timestamps,
        np.asarray(types, np.int8),
        np.asarray(values, np.float32),
    )
    return Snapshot.build("toy", NOW, items, interactions.take(np.argsort(timestamps, kind="stable")))


def checkerboard(users: int, items: int) -> Snapshot:
    """User u rated, with 4, every item i of the same parity but i = u: implicit's checkerboard; the id is i + 1."""
    events: list[Event] = [
        (user, item + 1, float(items - item), 4.0)
        for user in range(users)
        for item in range(items)
        if (user + item) % 2 == 0 and user != item
    ]
    genres = {item + 1: ("Even|Any" if item % 4 == 0 else "Odd" if item % 4 == 1 else "Any") for item in range(items)}
    return snapshot_of(events, genres)
