"""A batch of rank queries as arrays: candidates and known past events of all of them, one query after another."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recsys.allowed import RowNumbers
from recsys.catalogue import Catalogue
from recsys.domain import Candidates, Floats32, Ids, RankQuery
from recsys.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class QueryBatch:
    """The candidates of query i of q are bounds[i]:bounds[i + 1], its events event_bounds[i]:event_bounds[i + 1]."""

    rows: RowNumbers
    """int64[candidates]: catalogue rows."""
    bounds: RowNumbers
    """int64[q + 1]."""
    scores: Floats32
    """float32[candidates, channels]: as in `Candidates`, with a column for each channel that is asked for."""
    ranks: NDArray[np.int32]
    """int32[candidates, channels]; 0: not returned."""
    event_rows: RowNumbers
    """int64[events]: catalogue rows; events of unknown items are left out."""
    timestamps: Ids
    """int64[events]."""
    values: Floats32
    """float32[events]."""
    event_bounds: RowNumbers
    """int64[q + 1]."""
    as_of: Ids
    """int64[q]."""
    preferred: RowNumbers
    """The columns of preferred genres, query after query."""
    preferred_bounds: RowNumbers
    """int64[q + 1]."""

    @classmethod
    def of(cls, queries: Sequence[RankQuery], catalogue: Catalogue, channels: tuple[str, ...]) -> Self:
        """At least one query. Raises InvalidRequest for an unknown candidate or genre."""
        candidates = [query.candidates for query in queries]
        histories = [query.history for query in queries]
        bounds, event_bounds = _bounds(candidates), _bounds(histories)
        # All ids are looked up at once: a call takes longer than the work of a query.
        item_ids = _joined([*(each.item_ids for each in candidates), *(each.item_ids for each in histories)])
        found = catalogue.rows(item_ids)
        rows, event_rows = found[: bounds[-1]], found[bounds[-1] :]
        timestamps = _joined([history.timestamps for history in histories])
        values = _joined([history.values for history in histories])
        if len(found) and found.min() < 0:
            refuse_unknown(item_ids[: bounds[-1]], rows, catalogue)
            known = event_rows >= 0
            event_bounds = np.concatenate([[0], np.cumsum(known)])[event_bounds]
            event_rows, timestamps, values = event_rows[known], timestamps[known], values[known]
        preferred = [catalogue.check_genres(query.preferred_genres, "preferred_genres") for query in queries]
        evidence = [channel_evidence(each, channels) for each in candidates]
        return cls(
            rows,
            bounds,
            _joined([scores for scores, _ in evidence]),
            _joined([ranks for _, ranks in evidence]),
            event_rows,
            timestamps,
            values,
            event_bounds,
            np.asarray([query.as_of for query in queries], np.int64),
            np.asarray([column for columns in preferred for column in columns], np.int64),
            _bounds(preferred),
        )

    def candidates(self, query: int) -> slice:
        """Where the candidates of a query are."""
        return slice(int(self.bounds[query]), int(self.bounds[query + 1]))

    def events(self, query: int) -> slice:
        """Where the events of a query are."""
        return slice(int(self.event_bounds[query]), int(self.event_bounds[query + 1]))


def candidate_rows(catalogue: Catalogue, item_ids: Ids) -> RowNumbers:
    """Catalogue rows of candidates; raises InvalidRequest that names one that is unknown."""
    rows = catalogue.rows(item_ids)
    refuse_unknown(item_ids, rows, catalogue)
    return rows


def refuse_unknown(item_ids: Ids, rows: RowNumbers, catalogue: Catalogue) -> None:
    """Raises InvalidRequest, naming the first candidate whose row is -1."""
    if len(rows) and rows.min() < 0:
        unknown = int(item_ids[int(np.argmin(rows))])
        raise InvalidRequest(f"item_ids: {unknown} is not in this bundle's catalogue of {len(catalogue)} items")


def channel_evidence(candidates: Candidates, channels: tuple[str, ...]) -> tuple[Floats32, NDArray[np.int32]]:
    """float32[n, channels] and int32[n, channels]: scores and ranks with a column per channel of `channels`.

    The rank is 0 where a channel did not return the item; channels that the candidates do not have returned none.
    """
    if candidates.channels == channels:
        return candidates.scores, candidates.ranks
    shape = (len(candidates), len(channels))
    scores, ranks = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    for column, channel in enumerate(channels):
        if channel in candidates.channels:
            source = candidates.channels.index(channel)
            scores[:, column], ranks[:, column] = candidates.scores[:, source], candidates.ranks[:, source]
    return scores, ranks


def _bounds(parts: Sequence[Sized]) -> RowNumbers:
    """int64[len(parts) + 1]: where each part begins when they follow each other, and the end."""
    return np.asarray(list(accumulate((len(part) for part in parts), initial=0)), np.int64)


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The arrays after one another, contiguous; a single one is not copied."""
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))
