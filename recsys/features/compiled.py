"""Features of a whole batch with compiled kernels: the same bytes as `reference` has, query by query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recsys.allowed import RowNumbers
from recsys.domain import Floats32, RankQuery
from recsys.features import crosses, sessions, similarity
from recsys.features.credits import RoleCredits
from recsys.features.events import DAY, MISSING
from recsys.features.item_statistics import STAGES
from recsys.features.items import ITEM_NAMES
from recsys.features.queries import QueryBatch
from recsys.features.ranks import RANKED_COLUMNS
from recsys.features.rating import RatingModel
from recsys.features.selection import STAGE_NAME, Selection
from recsys.features.user import DECADES, recency
from recsys.kernels._features import Features

if TYPE_CHECKING:
    from recsys.features.store import FeatureStore

RECENT_EVENTS = 4_096
"""Earlier events weigh nothing: 2 to the power of -200 is 0 in single precision."""


class CompiledFeatures:
    """Computes the features that a selection chooses."""

    def __init__(self, store: FeatureStore, selection: Selection) -> None:
        """Gives the kernel the arrays of `store`."""
        self._store, self._selection = store, selection
        # What is ranked, by its position among these names.
        values = (*ITEM_NAMES, STAGE_NAME, *similarity.SIMILARITY_NAMES)
        people = store.credits
        self._kernel = Features(
            selection.columns,
            np.asarray([values.index(name) for name in RANKED_COLUMNS], np.int64),
            items=np.ascontiguousarray(store.items),
            stages=np.ascontiguousarray(store.stages),
            vectors=np.ascontiguousarray(store.vectors),
            traits=store.traits,
            directors=None if people is None else _ragged(people.directors),
            cast=None if people is None else _ragged(people.cast),
            recency=recency(RECENT_EVENTS),
            stage_bounds=np.asarray(STAGES, np.int64),
            decades=DECADES,
            missing=MISSING,
            day=int(DAY),
            session_gap=sessions.SESSION_GAP_SECONDS,
            hour_width=int(sessions.HOUR_WIDTH * 3_600),
            last=similarity.LAST,
            latest=similarity.NEAREST_AMONG,
            worst_rank=crosses.NOT_RETURNED_RANK,
            worst_score=crosses.NOT_RETURNED_RELATIVE,
            fusion=crosses.FUSION_CONSTANT,
        )

    def __call__(self, queries: Sequence[RankQuery]) -> Floats32:
        """float32[candidates of all queries, columns]; raises InvalidRequest for an unknown candidate or genre."""
        batch = QueryBatch.of(queries, self._store.catalogue, self._store.channels)
        features = np.empty((len(batch.rows), self._selection.width), np.float32)
        self._kernel.fill(batch, features)
        if self._store.rating is not None and self._selection.wants("rating"):
            _predict_ratings(self._store.rating, batch, features[:, self._selection.columns["rating"][0]])
        return features


def _predict_ratings(rating: RatingModel, batch: QueryBatch, column: Floats32) -> None:
    for query in range(len(batch.as_of)):
        events, candidates = batch.events(query), batch.candidates(query)
        column[candidates] = rating.predict(batch.event_rows[events], batch.values[events], batch.rows[candidates])


def _ragged(role: RoleCredits) -> tuple[RowNumbers, NDArray[np.int32]]:
    return role.indptr, role.person_rows
