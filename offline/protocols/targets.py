"""The requests of held-out users and what is relevant to them: the requests of evaluation, training samples, replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gateway.pipeline.request import Request
from offline.dataset.interactions import Dataset, Interactions, Snapshot
from offline.dataset.splits import Window
from offline.metrics.ranking import LONGEST, Relevant
from offline.steps.sampling import note_sample
from recsys.domain import EVENT_SEMANTICS, EVENT_WEIGHTS, MAX_REQUEST_HISTORY, History, Ids, Scores

TargetKind = Literal["all", "successive", "last"]
"""all: one request per user at the cut-off, every later item is relevant; successive: one request per later event,
with the history as of that event, and its item is relevant; last: the same for each user's last event only."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Requests in order, and parallel to them their users and what is relevant (never empty, never a seen item)."""

    requests: list[Request]
    user_ids: Ids
    warm: NDArray[np.bool_]
    """Whether the user has any event at or before the cut-off."""
    relevant: Relevant
    values: Scores | None = None
    """float32, parallel to `relevant.item_ids`: the rating or weight that the user gave, NaN where there is none; None
    where the protocol has none."""
    drawn_from: int = 0
    """How many users a part was drawn from; 0: these are all."""

    def __len__(self) -> int:
        return len(self.requests)

    def where(self, chosen: NDArray[np.bool_]) -> Targets:
        """The chosen requests alone, in order; `chosen`: bool[requests]."""
        relevant = np.repeat(chosen, self.relevant.counts)
        indptr = np.concatenate([[0], np.cumsum(self.relevant.counts[chosen])]).astype(np.int64)
        return Targets(
            [self.requests[n] for n in np.flatnonzero(chosen)],
            self.user_ids[chosen],
            self.warm[chosen],
            Relevant(indptr, self.relevant.item_ids[relevant]),
            None if self.values is None else self.values[relevant],
            self.drawn_from,
        )

    def note_sample(self, folder: Path, what: str) -> None:
        """Notes in the folder of a step where only a part of the users is asked."""
        if self.drawn_from:
            note_sample(folder, what, used=len(np.unique(self.user_ids)), of=self.drawn_from, unit="users")


def targets_of(
    kind: TargetKind,
    dataset: Dataset,
    snapshot: Snapshot,
    window: Window,
    *,
    max_users: int | None = None,
    seed: int = 0,
) -> Targets:
    """The targets of `window`; `snapshot` is the data set at its cut-off.

    A target is an event that is evidence of taste (see `EVENT_SEMANTICS`) on an item the user has not seen before.
    Items that appeared after the cut-off count as relevant although no list can hold them. `max_users` draws that
    many of the window's users.
    """
    events = positive_events(dataset.interactions.between(window.cutoff, window.until))
    everyone = np.unique(events.user_ids)
    users = drawn_users(everyone, max_users, seed)
    if len(users) < len(everyone):
        events = events.take(np.isin(events.user_ids, users))
    rows = list(_all(snapshot, events) if kind == "all" else _successive(dataset, window, events))
    if kind == "last":
        rows = _last_of_each(rows)
    user_ids = np.asarray([request.user_id for request, _, _ in rows], np.int64)
    return Targets(
        [request for request, _, _ in rows],
        user_ids,
        np.isin(user_ids, snapshot.user_ids),
        Relevant.of([relevant for _, relevant, _ in rows]),
        np.concatenate([*(values for _, _, values in rows), np.empty(0, np.float32)]),
        len(everyone) if len(users) < len(everyone) else 0,
    )


def drawn_users(users: Ids, most: int | None, seed: int) -> Ids:
    """All of `users`, or `most` of them, ascending, drawn with `seed`."""
    if most is None or len(users) <= most:
        return users
    return np.sort(np.random.default_rng(seed).choice(users, most, replace=False))


def positive_events(events: Interactions) -> Interactions:
    """The events that are evidence of taste."""
    positive = [number for number, meaning in EVENT_SEMANTICS.items() if meaning.enters_sequence]
    return events.take(np.isin(events.types, [*positive, 0]) & (EVENT_WEIGHTS[events.types] > 0))


def _all(snapshot: Snapshot, events: Interactions) -> Iterator[tuple[Request, Ids, Scores]]:
    """In order of user id."""
    for user_id, positions in _positions_by_user(events.user_ids):
        history = snapshot.history(user_id)
        relevant, values = _last_values(events.take(positions))
        new = ~np.isin(relevant, history.seen_item_ids())
        if new.any():
            yield Request(history, snapshot.cutoff, LONGEST, user_id=user_id), relevant[new], values[new]


def _successive(dataset: Dataset, window: Window, events: Interactions) -> Iterator[tuple[Request, Ids, Scores]]:
    """In order of time. The history is everything that comes before the event in the order of the data."""
    own = dataset.interactions.until(window.until)
    own = own.take(np.isin(own.user_ids, events.user_ids))
    histories = {
        user_id: History(
            own.item_ids[positions], own.timestamps[positions], own.types[positions], own.values[positions]
        )
        for user_id, positions in _positions_by_user(own.user_ids)
    }
    met: dict[int, int] = {}
    columns = (own.user_ids, own.item_ids, own.timestamps, own.types, own.values)
    for user_id, item_id, time, kind, value in zip(*columns, strict=True):
        user, position = int(user_id), met.get(int(user_id), 0)
        met[user] = position + 1
        if time <= window.cutoff or not _is_positive(int(kind)):
            continue
        history = histories[user].take(slice(max(0, position - MAX_REQUEST_HISTORY), position))
        if item_id not in history.seen_item_ids():
            request = Request(history, int(time), LONGEST, user_id=user)
            yield request, np.asarray([item_id], np.int64), np.asarray([value], np.float32)


def _last_of_each(rows: list[tuple[Request, Ids, Scores]]) -> list[tuple[Request, Ids, Scores]]:
    """The last request of each user, in the order given."""
    last = {request.user_id: position for position, (request, _, _) in enumerate(rows)}
    return [rows[position] for position in sorted(last.values())]


def _last_values(events: Interactions) -> tuple[Ids, Scores]:
    """The items of one user's events, ascending, each with the value of its last event."""
    item_ids, last_in_reverse = np.unique(events.item_ids[::-1], return_index=True)
    return item_ids, events.values[::-1][last_in_reverse]


def _is_positive(kind: int) -> bool:
    return kind == 0 or any(kind == number and meaning.enters_sequence for number, meaning in EVENT_SEMANTICS.items())


def _positions_by_user(user_ids: Ids) -> Iterator[tuple[int, Ids]]:
    """Each user, ascending, with the positions of their events in the order given."""
    order = np.argsort(user_ids, kind="stable")
    users, starts = np.unique(user_ids[order], return_index=True)
    for user_id, positions in zip(users, np.split(order, starts[1:]), strict=True):
        yield int(user_id), positions
