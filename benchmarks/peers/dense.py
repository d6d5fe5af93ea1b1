"""Peers that score by one dense product: iALS and neighbours of implicit, EASE and popularity of RecTools."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender
from implicit.utils import ParameterWarning
from rectools.dataset import Dataset
from rectools.models import EASEModel, PopularModel

from peers.lists import Scorer
from peers.rows import Events, Requests
from peers.trials import Settings


def history_of(requests: Requests, settings: Settings) -> Any:
    """Requests × items as the settings want the history: weights, and the last events only where `last` is not 0."""
    return requests.history.matrix(settings["weights"], settings["last"] or None)


def fit_ials(events: Events, settings: Settings, seed: int) -> Scorer:
    """implicit's ALS. A request's factors are solved from its own history (recalculate_user), as implicit does for
    users it was not fitted on."""
    model = AlternatingLeastSquares(
        factors=settings["factors"],
        regularization=settings["regularization"],
        alpha=settings["alpha"],
        iterations=settings["iterations"],
        num_threads=1,
        random_state=seed,
    )
    model.fit(events.matrix(settings["weights"]), show_progress=False)

    def score(requests: Requests) -> np.ndarray:
        history = history_of(requests, settings)
        users = model.recalculate_user(np.arange(history.shape[0]), history)
        return np.asarray(users @ model.item_factors.T)

    return score


def fit_neighbours(events: Events, settings: Settings, seed: int) -> Scorer:
    """implicit's cosine neighbours, or BM25 ones where `k1` is set. Scores are histories × similarity, as its
    recommend() computes them, so nothing depends on the seed."""
    del seed
    if "k1" in settings:
        model = BM25Recommender(K=settings["k"], K1=settings["k1"], B=settings["b"], num_threads=1)
    else:
        model = CosineRecommender(K=settings["k"], num_threads=1)
    with warnings.catch_warnings():
        # implicit converts its own weighted matrix and warns of that.
        warnings.simplefilter("ignore", ParameterWarning)
        model.fit(events.matrix(settings["weights"]), show_progress=False)

    def score(requests: Requests) -> np.ndarray:
        scores = (history_of(requests, settings) @ model.similarity).toarray().astype(np.float32)
        return np.where(scores > 0, scores, -np.inf)

    return score


def frame_of(events: Events) -> pd.DataFrame:
    """Events as RecTools' interactions. Ties in time are one nanosecond apart, so that every sort keeps the order."""
    within = pd.Series(events.timestamp).groupby([events.owner, events.timestamp]).cumcount().to_numpy()
    return pd.DataFrame(
        {
            "user_id": events.owner,
            "item_id": events.item,
            "weight": 1.0,
            "datetime": pd.to_datetime(events.timestamp * 1_000_000_000 + within),
        }
    )


def fit_ease(events: Events, settings: Settings, seed: int) -> Scorer:
    """RecTools' EASE; its closed form has no seed. An item that was not in the fitted rows has no score."""
    del seed
    kept = events.matrix(settings["weights"]).tocoo()
    frame = pd.DataFrame({"user_id": kept.row, "item_id": kept.col, "weight": kept.data, "datetime": "2000-01-01"})
    dataset = Dataset.construct(frame)
    model = EASEModel(regularization=settings["regularization"], recommend_n_threads=1)
    model.fit(dataset)
    known = dataset.item_id_map.external_ids.astype(np.int64)

    def score(requests: Requests) -> np.ndarray:
        scores = np.full((len(requests.ids), events.n_items), -np.inf, dtype=np.float32)
        scores[:, known] = history_of(requests, settings)[:, known] @ model.weight
        return scores

    return score


def fit_popularity(events: Events, settings: Settings, seed: int) -> Scorer:
    """RecTools' popularity over the last `days` of the fitted rows, 0 for all time."""
    del seed
    period = timedelta(days=settings["days"]) if settings["days"] else None
    model = PopularModel(popularity="n_interactions", period=period)
    dataset = Dataset.construct(frame_of(events))
    model.fit(dataset)
    scores = np.full(events.n_items, -np.inf, dtype=np.float32)
    positions, counts = model.popularity_list
    scores[dataset.item_id_map.convert_to_external(positions).astype(np.int64)] = counts
    return lambda requests: np.tile(scores, (len(requests.ids), 1))
