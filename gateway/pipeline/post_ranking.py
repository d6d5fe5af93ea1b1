"""Stages after ranking: each takes the ordered candidates of one request and returns them in another order, or fewer.

Whoever adds one writes `apply` and nothing about time or reports, and names it in `Pipeline.post_ranking`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from gateway.pipeline.request import RequestContext
from gateway.pipeline.stages import StageReport, Status
from recsys.catalogue import Catalogue
from recsys.domain import Candidates, Ids, Mask, Scores
from recsys.ordering import are_among


@dataclass(frozen=True, slots=True)
class OrderedCandidates:
    """The candidates of one request, best first, and a score for each."""

    candidates: Candidates
    scores: Scores

    def __len__(self) -> int:
        return len(self.candidates)

    def keep(self, kept: Mask) -> OrderedCandidates:
        """Those where `kept` is true; bool[n]."""
        return OrderedCandidates(self.candidates.take(kept), self.scores[kept])

    def reorder(self, order: Ids) -> OrderedCandidates:
        """Those at the positions `order`. Their scores no longer fit the order, so position scores replace them."""
        return OrderedCandidates(self.candidates.take(order), position_scores(len(order)))


def position_scores(n: int) -> Scores:
    """float32[n]: scores of a list that is not in the ranker's order: 1 / log2(1 + position), the weights of DCG."""
    scores: Scores = (1.0 / np.log2(np.arange(2, n + 2))).astype(np.float32)
    return scores


class PostRankingStage(ABC):
    """One step between the ranked list and the answer. `name` is the stage's name in reports and metrics."""

    name: ClassVar[str]

    @abstractmethod
    def apply(self, ordered: OrderedCandidates, context: RequestContext) -> OrderedCandidates:
        """The list that follows from `ordered`; `ordered` itself if this stage has nothing to do for the request."""

    @final
    def run(self, ordered: OrderedCandidates, context: RequestContext) -> tuple[OrderedCandidates, StageReport | None]:
        """Like `apply`, with a report; None if the stage had nothing to do."""
        started = time.perf_counter()
        applied = self.apply(ordered, context)
        if applied is ordered:
            return ordered, None
        microseconds = int((time.perf_counter() - started) * 1e6)
        return applied, StageReport(self.name, Status.OK, microseconds, len(ordered), len(applied))


@dataclass(frozen=True)
class PreferredGenresFirst(PostRankingStage):
    """Puts the genres that a new user names first, as far as there are candidates of them.

    No model has learned what a named genre is worth: channels and rankers learn from histories.
    """

    name: ClassVar[str] = "rerank"
    catalogue: Catalogue

    def apply(self, ordered: OrderedCandidates, context: RequestContext) -> OrderedCandidates:
        """Applies to requests that name genres and whose history is no evidence of taste."""
        preferred_genres = context.request.preferred_genres
        if not preferred_genres or len(context.sequence):
            return ordered
        columns = self.catalogue.check_genres(preferred_genres, "preferred_genres")
        preferred = self.catalogue.genres[self.catalogue.rows(ordered.candidates.item_ids)][:, columns].any(axis=1)
        return ordered.reorder(np.argsort(~preferred, kind="stable"))


@dataclass(frozen=True)
class HiddenItemsCut(PostRankingStage):
    """Cuts items that were hidden while the request ran; the candidates behind them move up."""

    name: ClassVar[str] = "filter"
    hidden: Callable[[], Ids]
    """int64[n], ascending: what must not be shown now; the same array for as long as the list is the same."""

    def apply(self, ordered: OrderedCandidates, context: RequestContext) -> OrderedCandidates:
        """Items that were hidden when the request began are gone already."""
        if (hidden_ids := self.hidden()) is context.hidden_ids:
            return ordered
        cut = are_among(ordered.candidates.item_ids, hidden_ids)
        return ordered.keep(~cut) if cut.any() else ordered
