"""Who is asked for, and what the lists must be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gateway.bundle.state import StoredHistories
from race.in_process import InProcess
from recsys.bundle import BundleStore

LOADED = 8
"""Users whose requests make the load."""
COMPARED = 32
"""Users whose lists are compared before anything is timed."""
_SHORTEST, _LONGEST = 0.02, 0.98


def by_history_length(bundle_root: Path, n: int) -> dict[int, int]:
    """`n` users with the number of their stored events, from short to long histories at equal shares of all users."""
    store = BundleStore(bundle_root)
    histories = StoredHistories.open(store.open(store.release().current).folder)
    lengths = np.diff(histories.indptr)
    order = np.argsort(lengths, kind="stable")
    places = np.linspace(_SHORTEST * (len(order) - 1), _LONGEST * (len(order) - 1), n).astype(np.int64)
    return {int(histories.user_ids[row]): int(lengths[row]) for row in order[places]}


def offline_lists(bundle_root: Path, user_ids: Sequence[int], count: int) -> dict[int, list[int]]:
    """The items of each user as one process makes them, one request at a time."""
    recommender = InProcess.open(bundle_root)

    async def answers() -> list[Any]:
        return [(await recommender.answers([recommender.request(user_id, count)]))[0] for user_id in user_ids]

    found = asyncio.run(answers())
    return {user_id: answer.candidates.item_ids.tolist() for user_id, answer in zip(user_ids, found, strict=True)}


def differences(expected: Mapping[int, list[int]], found: Mapping[int, list[int]]) -> list[str]:
    """One line per user whose list is another."""
    return [
        f"user {user_id}: {found[user_id]} instead of {items}"
        for user_id, items in expected.items()
        if found[user_id] != items
    ]
