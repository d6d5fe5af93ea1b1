"""Peers of LensKit. Each request is answered from its own history, given to the scorer in the query."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from lenskit.als import ImplicitMFScorer
from lenskit.data import ItemList, RecQuery, from_interactions_df
from lenskit.knn import ItemKNNScorer
from lenskit.training import TrainingOptions

from peers.lists import Scorer
from peers.rows import Events, Requests
from peers.trials import Settings


def fit_item_knn(events: Events, settings: Settings, seed: int) -> Scorer:
    """LensKit's item-item neighbours in its implicit mode, the one its authors recommend for top-n lists."""
    scorer = ItemKNNScorer(
        feedback="implicit", max_nbrs=settings["k"], min_sim=settings["min_sim"], save_nbrs=settings["save"] or None
    )
    return train(scorer, events, settings, seed)


def fit_implicit_mf(events: Events, settings: Settings, seed: int) -> Scorer:
    """LensKit's implicit matrix factorisation; a request's embedding is solved from its own history."""
    scorer = ImplicitMFScorer(
        embedding_size=settings["factors"],
        regularization=settings["regularization"],
        weight=settings["weight"],
        epochs=settings["epochs"],
    )
    return train(scorer, events, settings, seed)


def train(scorer: Any, events: Events, settings: Settings, seed: int) -> Scorer:
    """Trains on the events that the settings keep, and scores the whole vocabulary for each request."""
    kept = events.matrix(settings["weights"]).tocoo()
    frame = pd.DataFrame({"user_id": kept.row, "item_id": kept.col})
    scorer.train(from_interactions_df(frame), TrainingOptions(rng=seed))
    vocabulary = ItemList(item_ids=np.arange(events.n_items))

    def score(requests: Requests) -> np.ndarray:
        history = requests.history.matrix(settings["weights"], settings["last"] or None)
        rows = []
        for request in range(history.shape[0]):
            seen = history.indices[history.indptr[request] : history.indptr[request + 1]]
            query = RecQuery(history_items=ItemList(item_ids=np.sort(seen)))
            rows.append(scorer(query, vocabulary).scores() if len(seen) else np.full(events.n_items, -np.inf))
        return np.asarray(rows, dtype=np.float32)

    return score
