"""A small shop: the world of tastes, with newcomers and with a user and an item that are met only once."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.offline.tastes import DAY, DAYS, ITEMS, USERS, dataset_of_tastes

NEWCOMERS = 6
"""Users whose five events are all in the last three days."""
LONELY_USER, LONELY_ITEM = 900, 61


@dataclass(frozen=True)
class Log:
    """The columns of the interactions, in order of time."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    ratings: NDArray[np.float64]

    def take(self, kept: NDArray[np.bool_]) -> Log:
        """The events that `kept` marks."""
        return Log(self.users[kept], self.items[kept], self.times[kept], self.ratings[kept])


def log_of_the_shop() -> Log:
    """The tastes, newcomers, and one user with a single event on an item that nobody else has."""
    events, rng = dataset_of_tastes().interactions, np.random.default_rng(3)
    ratings = np.where(events.values > 1, 4.0, 3.0)
    newcomers = np.repeat(USERS + 1 + np.arange(NEWCOMERS), 5)
    chosen = np.concatenate([rng.choice(ITEMS, 5, replace=False) + 1 for _ in range(NEWCOMERS)])
    late = rng.integers((DAYS - 3) * DAY, DAYS * DAY, len(newcomers))
    users = np.concatenate([events.user_ids, newcomers, [LONELY_USER]])
    items = np.concatenate([events.item_ids, chosen, [LONELY_ITEM]])
    times = np.concatenate([events.timestamps, late, [1]])
    order = np.argsort(times, kind="stable")
    ratings = np.concatenate([ratings, np.full(len(newcomers), 4.0), [4.0]])
    return Log(users[order], items[order], times[order], ratings[order])


def write_shop(folder: Path) -> None:
    """Writes the log into `folder` as a user's own interactions."""
    log = log_of_the_shop()
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "item", "timestamp", "rating"))
        columns = (log.users, log.items, log.times, log.ratings)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
