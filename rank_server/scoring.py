"""The ranker at serving time: an ONNX graph over the features of a query, gRPC-free.

A graph declares any subset of a fixed menu of inputs (contract 12) and returns `score[n]`; it is fed what it declares,
so a tree ensemble and an attention network over the history run on the same server.

    features       float32[n, F]   one row per candidate, the candidates of all queries of a run one after another
    item_row       int64[n]        catalogue row of each candidate
    query_index    int64[n]        which query of the run a candidate belongs to, 0 to q - 1
    history_row    int64[q, L]     catalogue rows of the latest known events, oldest first, left-aligned; 0 where masked
    history_value  float32[q, L]   rating or weight, NaN where the event has none; 0 where masked
    history_age    float32[q, L]   seconds from the event to as_of, never negative; 0 where masked
    history_mask   bool[q, L]      true where there is an event (float32 if the graph declares it so)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rank_server.graphs import Feed, Graph, open_graph
from rank_server.judge import judge_apart
from recsys.bundle import Bundle, golden
from recsys.catalogue import Catalogue
from recsys.domain import RankQuery, Scores
from recsys.errors import BundleMismatch, ContractBroken
from recsys.features import FeatureStore
from recsys.features.queries import candidate_rows
from recsys.features.store import check_feature_names

GRAPH_FILE = "rank/ranker.onnx"
MENU = (
    "features",
    "item_row",
    "query_index",
    "history_row",
    "history_value",
    "history_age",
    "history_mask",
)

NO_SCORES: Scores = np.empty(0, np.float32)

logger = logging.getLogger(__name__)


class Ranker:
    """Scores candidates. Safe to use from several threads."""

    def __init__(self, store: FeatureStore, graph: Graph) -> None:
        """Raises BundleMismatch unless the graph's inputs are on the menu."""
        self._store = store
        self._graph = graph
        self._inputs = graph.inputs
        if not set(graph.inputs) <= set(MENU):
            found, known = ", ".join(sorted(graph.inputs)), ", ".join(MENU)
            raise BundleMismatch(f"{GRAPH_FILE}: inputs {found}; expected some of {known}; export the ranker again")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the graph, the feature arrays and the catalogue below `folder`."""
        return cls(FeatureStore.open(folder), open_graph(folder / GRAPH_FILE))

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Like `open`; compiled trees repeat the golden requests against ONNX Runtime, and the log says what scores.

        Raises BundleMismatch if the manifest names other features than this software computes, or for a bundle without
        golden requests.
        """
        store = FeatureStore.open(bundle.folder)
        check_feature_names(f"bundle {bundle.version}", bundle.manifest.feature_names, store.feature_names)

        def examples() -> NDArray[np.float32]:
            return np.concatenate([store.features(query) for query in golden.rank_queries(bundle.folder)])

        graph = open_graph(bundle.folder / GRAPH_FILE, judge=judge_apart, examples=examples)
        logger.info("the ranker of bundle %s is scored by %s", bundle.version, graph.form)
        return cls(store, graph)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of `features`, in order."""
        return self._store.feature_names

    @property
    def used_columns(self) -> tuple[int, ...] | None:
        """Columns of `features` that a score depends on, ascending; None: all may count."""
        return self._graph.used_columns

    @property
    def catalogue(self) -> Catalogue:
        """The items that can be ranked."""
        return self._store.catalogue

    def features(self, queries: Sequence[RankQuery]) -> list[NDArray[np.float32]]:
        """Per query float32[n, len(feature_names)], in order. Raises InvalidRequest for an unknown candidate."""
        return [self._store.features(query) for query in queries]

    def score(self, queries: Sequence[RankQuery]) -> list[Scores]:
        """Per query float32[n], parallel to its candidates, higher is better.

        One query is a run of the graph, unless that scores each row by itself: padding histories to the longest of a
        batch, or multiplying larger matrices, changes the last bits of scores, and nobody's answer may depend on who
        else is in the batch.

        Raises InvalidRequest for an unknown candidate, ContractBroken if the graph returns another number of scores
        than it was given candidates.
        """
        if not self._graph.by_row:
            return [self._run(self._feed(query), len(query.candidates)) for query in queries]
        features = self._store.features_of(queries, self._graph.used_columns)
        scores = self._run({"features": features}, len(features))
        ends = accumulate((len(query.candidates) for query in queries), initial=0)
        return [scores[start:end] for start, end in pairwise(ends)]

    def _run(self, feed: Feed, n: int) -> Scores:
        scores = self._graph.run(feed) if n else NO_SCORES
        if scores.shape != (n,):
            raise ContractBroken(f"{GRAPH_FILE}: scores of shape {scores.shape} for {n} candidates")
        return scores

    def _feed(self, query: RankQuery) -> Feed:
        """The inputs that the graph declares; every candidate is checked, whichever inputs those are."""
        feed: Feed = {}
        if "features" in self._inputs:
            feed["features"] = self._store.features_of([query], self._graph.used_columns)
        if "item_row" in self._inputs or "features" not in self._inputs:
            feed["item_row"] = candidate_rows(self.catalogue, query.candidates.item_ids)
        if "query_index" in self._inputs:
            feed["query_index"] = np.zeros(len(query.candidates), np.int64)
        if any(name.startswith("history_") for name in self._inputs):
            history = history_inputs(self.catalogue, query)
            if self._inputs.get("history_mask") == "tensor(float)":
                history["history_mask"] = history["history_mask"].astype(np.float32)
            feed |= history
        return {name: array for name, array in feed.items() if name in self._inputs}


def history_inputs(catalogue: Catalogue, query: RankQuery) -> Feed:
    """The four history inputs of a run of one query; L is the number of its known events, at least 1."""
    rows = catalogue.rows(query.history.item_ids)
    known = rows >= 0
    n = int(known.sum())
    shape = (1, max(n, 1))
    feed: Feed = {
        "history_row": np.zeros(shape, np.int64),
        "history_value": np.zeros(shape, np.float32),
        "history_age": np.zeros(shape, np.float32),
        "history_mask": np.zeros(shape, np.bool_),
    }
    feed["history_row"][0, :n] = rows[known]
    feed["history_value"][0, :n] = query.history.values[known]
    feed["history_age"][0, :n] = np.maximum(query.as_of - query.history.timestamps[known], 0)
    feed["history_mask"][0, :n] = True
    return feed
