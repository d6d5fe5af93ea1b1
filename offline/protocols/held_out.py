"""Events that a protocol holds out of histories, and the requests whose targets they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gateway.pipeline.request import Request
from offline.dataset.interactions import Interactions, Snapshot
from offline.metrics.ranking import LONGEST, Relevant
from offline.protocols.targets import TargetKind, Targets, drawn_users
from recsys.domain import History, Ids, Scores

Moment = Literal["target", "history"]
"""The moment of a request: that of its first target, or that of the last event of its history."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One request per user of `held`, in order of user id: the history is that user's events in `known`."""

    known: Interactions
    held: Interactions
    moment: Moment
    """`target` where held events are later than known ones, `history` where a split has no regard to time."""

    def among(self, user_ids: Ids) -> HeldOut:
        """The requests of these users only."""
        return HeldOut(self.known, self.held.take(np.isin(self.held.user_ids, user_ids)), self.moment)

    def __call__(self, snapshot: Snapshot, kind: TargetKind, *, max_users: int | None = None, seed: int = 0) -> Targets:
        """`kind` changes nothing: these protocols have one. Users with a history are warm."""
        del kind
        held = self.held
        everyone = np.unique(held.user_ids)
        users = drawn_users(everyone, max_users, seed)
        if len(users) < len(everyone):
            held = held.take(np.isin(held.user_ids, users))
        rows = list(self._requests(held, users, snapshot.cutoff))
        return Targets(
            [request for request, _, _ in rows],
            np.asarray([request.user_id for request, _, _ in rows], np.int64),
            np.asarray([len(request.history) > 0 for request, _, _ in rows], np.bool_),
            Relevant.of([relevant for _, relevant, _ in rows]),
            np.concatenate([*(values for _, _, values in rows), np.empty(0, np.float32)]),
            len(everyone) if len(users) < len(everyone) else 0,
        )

    def _requests(self, held: Interactions, users: Ids, cutoff: int) -> Iterator[tuple[Request, Ids, Scores]]:
        """What a user has seen is no target; a user without any is left out."""
        known = self.known.take(np.isin(self.known.user_ids, users))
        histories, targets = _by_user(known, users), _by_user(held, users)
        for user_id, own, wanted in zip(users.tolist(), histories, targets, strict=True):
            history = History(own.item_ids, own.timestamps, own.types, own.values)
            relevant, last_in_reverse = np.unique(wanted.item_ids[::-1], return_index=True)
            values = wanted.values[::-1][last_in_reverse]
            new = ~np.isin(relevant, history.seen_item_ids())
            if not new.any():
                continue
            moment = cutoff
            if self.moment == "target":
                moment = int(wanted.timestamps.min())
            elif len(history):
                moment = int(history.timestamps[-1])
            yield Request(history, moment, LONGEST, user_id=user_id), relevant[new], values[new]


def _by_user(events: Interactions, users: Ids) -> Iterator[Interactions]:
    """The events of each of `users` (ascending), in the order given."""
    order = np.argsort(events.user_ids, kind="stable")
    starts = np.searchsorted(events.user_ids[order], users, side="left")
    ends = np.searchsorted(events.user_ids[order], users, side="right")
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield events.take(order[start:end])


def drawn_share(user_ids: Ids, share: float, seed: int) -> Ids:
    """Ascending ids of `share` of the distinct users, at least one, drawn with `seed`."""
    users = np.unique(user_ids)
    n = max(1, round(share * len(users)))
    return np.sort(np.random.default_rng(seed).choice(users, n, replace=False))
