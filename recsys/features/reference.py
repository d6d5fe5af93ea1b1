"""Features of one query at a time, in numpy: what `compiled` must equal, and what runs where nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from recsys.domain import Floats32, RankQuery
from recsys.features.credits import PEOPLE_NAMES
from recsys.features.crosses import crosses, evidence
from recsys.features.events import MISSING
from recsys.features.queries import candidate_rows
from recsys.features.ranks import RANKED_COLUMNS, within_request_ranks
from recsys.features.selection import Selection
from recsys.features.sessions import sessions_of
from recsys.features.similarity import similarities
from recsys.features.user import profile_of

if TYPE_CHECKING:
    from recsys.features.store import FeatureStore

RANKS = "ranks"


class ReferenceFeatures:
    """Computes the features that a selection chooses."""

    def __init__(self, store: FeatureStore, selection: Selection) -> None:
        """Groups are computed as a whole: those that are chosen, and those whose values are ranked."""
        self._store = store
        ranked = {group for group, names in store.groups.items() if set(names) & set(RANKED_COLUMNS)}
        needed = ranked if selection.wants(RANKS) else set()
        self._groups = [group for group in store.groups if selection.wants(group) or group in needed]
        names = [name for group in self._groups for name in store.groups[group]]
        self._ranked = [names.index(name) for name in RANKED_COLUMNS] if needed else []
        self._columns = selection.pick(self._groups)

    def __call__(self, queries: Sequence[RankQuery]) -> Floats32:
        """float32[candidates of all queries, columns]; raises InvalidRequest for an unknown candidate or genre."""
        return np.concatenate([self._of(query) for query in queries])

    def _of(self, query: RankQuery) -> Floats32:
        one = _Query(self._store, query)
        blocks = [np.empty((len(query.candidates), 0), np.float32)]
        for group in self._groups:
            if group == RANKS:
                blocks = [np.concatenate(blocks, axis=1)]
                blocks.append(within_request_ranks(blocks[0][:, self._ranked]))
            else:
                blocks.append(_COMPUTE[group](one))
        return np.concatenate(blocks, axis=1).take(self._columns, axis=1)


class _Query:
    """One query, and its features by group: float32[n, features of the group] each."""

    def __init__(self, store: FeatureStore, query: RankQuery) -> None:
        """Finds candidates and history in the catalogue; unknown items of the history are ignored."""
        self.store, self.query = store, query
        self.rows = candidate_rows(store.catalogue, query.candidates.item_ids)
        rows = store.catalogue.rows(query.history.item_ids)
        known = rows >= 0
        self.history = query.history if known.all() else query.history.take(known)
        self.history_rows = rows[known]
        preferred = store.catalogue.check_genres(query.preferred_genres, "preferred_genres")
        self.profile = profile_of(self.history_rows, self.history, store.traits, as_of=query.as_of, preferred=preferred)
        self.sessions = sessions_of(self.history.timestamps, query.as_of)

    def items(self) -> Floats32:
        return self.store.items.take(self.rows, axis=0)

    def users(self) -> Floats32:
        numbers = np.concatenate([self.profile.numbers, self.sessions.numbers])
        return np.broadcast_to(numbers, (len(self.rows), len(numbers)))

    def crosses(self) -> Floats32:
        return crosses(self.rows, self.store.traits, self.profile)

    def stage(self) -> Floats32:
        return self.store.stages[self.rows, self.profile.stage, None]

    def similarity(self) -> Floats32:
        return similarities(
            self.store.vectors.take(self.rows, axis=0),
            self.store.vectors.take(self.history_rows, axis=0),
            self.profile,
            in_session=self.sessions.in_last,
        )

    def people(self) -> Floats32:
        if self.store.credits is None:
            return np.full((len(self.rows), len(PEOPLE_NAMES)), MISSING, np.float32)
        return self.store.credits.crosses(self.rows, self.history_rows, self.profile.deviations)

    def rating(self) -> Floats32:
        if self.store.rating is None:
            return np.empty((len(self.rows), 0), np.float32)
        return self.store.rating.predict(self.history_rows, self.history.values, self.rows)[:, None]

    def evidence(self) -> Floats32:
        return evidence(self.query.candidates, self.store.channels)


_COMPUTE: Mapping[str, Callable[[_Query], Floats32]] = {
    "items": _Query.items,
    "users": _Query.users,
    "crosses": _Query.crosses,
    "stage": _Query.stage,
    "similarity": _Query.similarity,
    "people": _Query.people,
    "rating": _Query.rating,
    "evidence": _Query.evidence,
}
"""By group of `feature_groups`, but for the ranks, which need the values of other groups."""
