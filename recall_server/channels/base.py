"""The contract of a recall channel.

A new channel implements `open`, `load` and `search` (or, below `DenseChannel`, `scores`) and nothing about metrics,
gRPC, filters or ties. `recall` is what callers use; it checks what `search` returned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from recsys.allowed import Allowed
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.contracts import check_recall_result
from recsys.domain import RecallQuery, RecallResult
from recsys.errors import ContractBroken
from recsys.ordering import top_k


class Channel(ABC):
    """One way to find candidates."""

    name: ClassVar[str]
    """Name of the channel; also its role in the bundle."""
    history_limit: ClassVar[int | None] = None
    """Latest events that the channel needs (None: all, 0: none); publishing writes it into the bundle's policy."""

    catalogue: Catalogue

    @classmethod
    @abstractmethod
    def open(cls, folder: Path) -> Self:
        """Opens the catalogue and the channel's files below `folder`, as training wrote them; raises BundleMismatch."""

    @classmethod
    @abstractmethod
    def load(cls, bundle: Bundle) -> Self:
        """Loads the channel's files from a verified bundle."""

    @abstractmethod
    def search(self, queries: Sequence[RecallQuery], allowed: Sequence[Allowed]) -> list[RecallResult]:
        """Finds candidates for each query, in the order of the queries.

        `allowed[i]` says which catalogue rows query i may get. A result has `count` candidates if that many rows are
        allowed and known to the channel.
        """

    @final
    def recall(self, queries: Sequence[RecallQuery]) -> list[RecallResult]:
        """Answers a batch: filters are pushed down to the search, and its results are checked.

        Raises:
            InvalidRequest: a filter or preference names an unknown genre.
            ContractBroken: the channel returned what the contract forbids.
        """
        allowed = [self.catalogue.allowed(query.item_filter, query.exclude_item_ids) for query in queries]
        results = self.search(queries, allowed)
        if len(results) != len(queries):
            raise ContractBroken(f"channel {self.name}: {len(results)} results for {len(queries)} queries")
        for query, result in zip(queries, results, strict=True):
            check_recall_result(f"channel {self.name}", query, result)
        return results


class DenseChannel(Channel):
    """A channel that scores every item of the catalogue; masking, top-k and ties are done here."""

    @abstractmethod
    def scores(self, queries: Sequence[RecallQuery]) -> NDArray[np.float32]:
        """float32[queries, items]; -inf marks an item the channel knows nothing about. May be written to."""

    def with_seeds(self, query: RecallQuery, rows: NDArray[np.int64], result: RecallResult) -> RecallResult:
        """Adds seeds to a result; `rows` are the catalogue rows of its items. The default has none."""
        del query, rows
        return result

    def search(self, queries: Sequence[RecallQuery], allowed: Sequence[Allowed]) -> list[RecallResult]:
        """Masks, then takes the best `count` of each row of `scores`."""
        scores = self.scores(queries)
        results = []
        for query, own, row_scores in zip(queries, allowed, scores, strict=True):
            own.forbid(row_scores, -np.inf)
            rows = top_k(row_scores, query.count)
            result = RecallResult(self.catalogue.item_ids[rows], row_scores[rows])
            results.append(self.with_seeds(query, rows, result))
        return results
