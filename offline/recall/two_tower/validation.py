"""How well the towers rank what users do after a moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from offline.dataset.interactions import TrainingEvents
from offline.metrics.ranking import Relevant, hits_of, padded, per_request
from offline.recall.two_tower.batches import Examples, cut_at, gather_histories
from offline.recall.two_tower.config import TwoTowerConfig
from offline.recall.two_tower.corpus import Corpus, events_where
from offline.recall.two_tower.model import TwoTower
from offline.recall.two_tower.sequence import SequenceTower
from recsys.ordering import top_k

_CHUNK = 128
_DEPTH = 10


@dataclass(frozen=True)
class Validation:
    """Users with events on both sides of the end of `corpus`; the later ones are what should be found."""

    corpus: Corpus
    events: TrainingEvents
    """All events of the snapshot, later ones included."""
    users: Examples

    @classmethod
    def after(cls, corpus: Corpus, events: TrainingEvents, config: TwoTowerConfig) -> Validation:
        """At most `validation_users` users, drawn by the seed."""
        users = cut_at(events, int(corpus.trend.moments[-1]))
        chosen = np.random.default_rng(config.seed).permutation(len(users))[: config.validation_users]
        return cls(corpus, events, users.take(np.sort(chosen)))

    @classmethod
    def of_latest(cls, events: TrainingEvents, n_items: int, cutoff: int, config: TwoTowerConfig) -> Validation:
        """Each user's latest event is asked for at its own time, from the events before it; the rest is the corpus."""
        counts = np.diff(events.indptr)
        cuts = events.indptr[1:] - 1
        kept = np.ones(len(events.item_rows), np.bool_)
        kept[cuts[counts > 1]] = False
        users = np.flatnonzero(counts > 1)
        chosen = np.random.default_rng(config.seed).permutation(len(users))[: config.validation_users]
        users = users[np.sort(chosen)]
        examples = Examples(events.indptr[users], cuts[users], events.indptr[users + 1], events.timestamps[cuts[users]])
        return cls(Corpus.of(events_where(events, kept), n_items, cutoff, config), events, examples)

    def score(self, model: TwoTower | SequenceTower, limit: int) -> float:
        """NDCG@10 over the items that the corpus knows, what a user has seen left out; `limit` bounds histories."""
        vectors = model.item_vectors(self.corpus.latest, self.corpus.known)
        vectors_of_events = torch.from_numpy(vectors[:, : model.latent_size])
        lists, relevant = [], []
        for start in range(0, len(self.users), _CHUNK):
            chunk = self.users.take(np.arange(start, min(start + _CHUNK, len(self.users))))
            histories = gather_histories(self.events, chunk, limit)
            latent = vectors_of_events[histories.rows].to(model.device)
            with torch.no_grad():
                users = model.users(latent, histories.to(model.device)).cpu().numpy()
            scores = np.where(self.corpus.known, users @ vectors.T, np.float32(-np.inf))
            for row, (begin, cut, end) in enumerate(zip(chunk.starts, chunk.cuts, chunk.ends, strict=True)):
                scores[row, self.events.item_rows[begin:cut]] = -np.inf
                lists.append(top_k(scores[row], _DEPTH))
                relevant.append(self.events.item_rows[cut:end].astype(np.int64))
        wanted = Relevant.of(relevant)
        hits = hits_of(padded(lists, _DEPTH), wanted)
        return float(per_request(hits, wanted.counts, (_DEPTH,))[f"ndcg@{_DEPTH}"].mean())
