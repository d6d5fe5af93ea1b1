"""A part of the candidates to learn from: what is relevant, and negatives of three kinds.

hard      what recall returned, whatever its rank: what the ranker has to distinguish
popular   drawn by the number of events: what a user is likely to have seen and not taken
uniform   drawn evenly: what is left of the catalogue

Every request has a generator of its own, seeded by its user and time, so that its draw depends on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from offline.ranking.samples.config import SamplesConfig
from recsys.domain import Candidates, Floats32, Ids, RankQuery
from recsys.features import FeatureStore


@dataclass(frozen=True, slots=True)
class Mixture:
    """How many negatives of which kind, and what they are drawn from."""

    store: FeatureStore
    config: SamplesConfig
    popularity: NDArray[np.float64]
    """float64[items]: chances to be drawn as a popular item; they sum to 1."""

    @classmethod
    def of(cls, store: FeatureStore, config: SamplesConfig) -> Mixture:
        """Popular items are drawn in proportion to 1 + their events before the cut-off."""
        weights = np.exp(store.item_column("item_count_all").astype(np.float64))
        return cls(store, config, weights / weights.sum())

    def draw(self, query: RankQuery, features: Floats32, relevant: Ids) -> tuple[Ids, Floats32]:
        """Item ids and features of the candidates that are kept, in their order, then of those that are added.

        Features of what recall returned are those of the whole list, as serving computes them; what is added has no
        evidence of any channel. Without a relevant candidate the request keeps `negatives` negatives.
        """
        config = self.config
        rng = np.random.default_rng([config.seed, query.user_id or 0, query.as_of])
        item_ids = query.candidates.item_ids
        positive = np.isin(item_ids, relevant)
        wanted = config.negatives * max(int(positive.sum()), 1)
        hard, popular = round(config.hard_share * wanted), round(config.popular_share * wanted)
        others = np.flatnonzero(~positive)
        kept = positive.copy()
        kept[rng.choice(others, min(hard, len(others)), replace=False)] = True
        taken = np.concatenate([item_ids, relevant, query.history.item_ids])
        added = self._added(rng, taken, popular=popular, uniform=max(wanted - hard - popular, 0))
        return np.concatenate([item_ids[kept], added]), np.concatenate([features[kept], self._features(query, added)])

    def _added(self, rng: np.random.Generator, taken: Ids, *, popular: int, uniform: int) -> Ids:
        """Ids that are not among `taken`, ascending."""
        catalogue = self.store.catalogue
        free = np.ones(len(catalogue), np.bool_)
        free[catalogue.known_rows(taken)] = False
        rows = np.flatnonzero(free)
        chances = self.popularity[rows] / self.popularity[rows].sum() if len(rows) else None
        first = rng.choice(rows, min(popular, len(rows)), replace=False, p=chances)
        rows = np.setdiff1d(rows, first)
        second = rng.choice(rows, min(uniform, len(rows)), replace=False)
        found: Ids = catalogue.item_ids[np.sort(np.concatenate([first, second]))]
        return found

    def _features(self, query: RankQuery, added: Ids) -> Floats32:
        """Features of added items, each as if it followed the list that recall made."""
        longer = replace(query, candidates=_with(query.candidates, added))
        return self.store.features(longer)[len(query.candidates) :]


def _with(candidates: Candidates, added: Ids) -> Candidates:
    """The candidates, and behind them items that no channel returned."""
    shape = (len(added), len(candidates.channels))
    return Candidates(
        np.concatenate([candidates.item_ids, added]),
        candidates.channels,
        np.concatenate([candidates.scores, np.zeros(shape, np.float32)]),
        np.concatenate([candidates.ranks, np.zeros(shape, np.int32)]),
        np.concatenate([candidates.seed_item_ids, np.zeros(shape, np.int64)]),
        np.concatenate([candidates.seed_present, np.zeros(shape, np.bool_)]),
    )
