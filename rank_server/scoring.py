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

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.domain import RankQuery, Scores
from recsys.errors import BundleMismatch, ContractBroken
from recsys.features import FeatureStore
from recsys.features.store import candidate_rows, check_feature_names

GRAPH_FILE = "rank/ranker.onnx"
MAX_QUERIES_PER_RUN = 8
"""Larger runs do not fit the CPU cache: 16 queries of 200 candidates take longer per query than 4 to 8."""

MENU = (
    "features",
    "item_row",
    "query_index",
    "history_row",
    "history_value",
    "history_age",
    "history_mask",
)

Feed = dict[str, NDArray[Any]]


class Ranker:
    """Scores candidates. Safe to use from several threads."""

    def __init__(self, store: FeatureStore, session: ort.InferenceSession) -> None:
        """Raises BundleMismatch unless the graph's inputs are on the menu and its only output is `score`."""
        self._store = store
        self._session = session
        self._inputs = {node.name: node.type for node in session.get_inputs()}
        unknown = sorted(set(self._inputs) - set(MENU))
        outputs = [node.name for node in session.get_outputs()]
        if unknown or outputs != ["score"]:
            raise BundleMismatch(
                f"{GRAPH_FILE}: inputs {sorted(self._inputs)} and outputs {outputs}; expected inputs among "
                f"{', '.join(MENU)} and the output score; export the ranker again"
            )

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the graph, the feature arrays and the catalogue below `folder`."""
        return cls(FeatureStore.open(folder), open_session(folder / GRAPH_FILE))

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Like `open`; raises BundleMismatch if the manifest names other features than this software computes."""
        ranker = cls.open(bundle.folder)
        check_feature_names(f"bundle {bundle.version}", bundle.manifest.feature_names, ranker.feature_names)
        return ranker

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of `features`, in order."""
        return self._store.feature_names

    @property
    def catalogue(self) -> Catalogue:
        """The items that can be ranked."""
        return self._store.catalogue

    def features(self, queries: Sequence[RankQuery]) -> list[NDArray[np.float32]]:
        """Per query float32[n, len(feature_names)], in order. Raises InvalidRequest for an unknown candidate."""
        return [self._store.features(query) for query in queries]

    def score(self, queries: Sequence[RankQuery]) -> list[Scores]:
        """Per query float32[n], parallel to its candidates, higher is better.

        Raises InvalidRequest for an unknown candidate, ContractBroken if the graph returns another number of scores
        than it was given candidates.
        """
        scores: list[Scores] = []
        for start in range(0, len(queries), MAX_QUERIES_PER_RUN):
            scores += self._run(queries[start : start + MAX_QUERIES_PER_RUN])
        return scores

    def _run(self, queries: Sequence[RankQuery]) -> list[Scores]:
        lengths = [len(query.candidates) for query in queries]
        feed = self._feed(queries, lengths)
        n = sum(lengths)
        scores = np.asarray(self._session.run(["score"], feed)[0], np.float32) if n else np.empty(0, np.float32)
        if scores.shape != (n,):
            raise ContractBroken(f"{GRAPH_FILE}: scores of shape {scores.shape} for {n} candidates")
        return np.split(scores, np.cumsum(lengths[:-1], dtype=np.int64))

    def _feed(self, queries: Sequence[RankQuery], lengths: Sequence[int]) -> Feed:
        """The inputs that the graph declares; every candidate is checked, whichever inputs those are."""
        feed: Feed = {}
        if "features" in self._inputs:
            feed["features"] = np.concatenate(self.features(queries))
        if "item_row" in self._inputs or "features" not in self._inputs:
            rows = [candidate_rows(self.catalogue, query.candidates.item_ids) for query in queries]
            feed["item_row"] = np.concatenate(rows)
        if "query_index" in self._inputs:
            feed["query_index"] = np.repeat(np.arange(len(queries), dtype=np.int64), lengths)
        if any(name.startswith("history_") for name in self._inputs):
            history = history_inputs(self.catalogue, queries)
            if self._inputs.get("history_mask") == "tensor(float)":
                history["history_mask"] = history["history_mask"].astype(np.float32)
            feed |= history
        return {name: array for name, array in feed.items() if name in self._inputs}


def open_session(path: Path) -> ort.InferenceSession:
    """A session on one thread that never spins: a process does not have a core to itself."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def history_inputs(catalogue: Catalogue, queries: Sequence[RankQuery]) -> Feed:
    """The four history inputs; L is the longest history of known items among `queries`, at least 1."""
    rows = [catalogue.rows(query.history.item_ids) for query in queries]
    known = [row >= 0 for row in rows]
    shape = (len(queries), max([int(mask.sum()) for mask in known], default=0) or 1)
    feed: Feed = {
        "history_row": np.zeros(shape, np.int64),
        "history_value": np.zeros(shape, np.float32),
        "history_age": np.zeros(shape, np.float32),
        "history_mask": np.zeros(shape, np.bool_),
    }
    for position, (query, row, mask) in enumerate(zip(queries, rows, known, strict=True)):
        n = int(mask.sum())
        feed["history_row"][position, :n] = row[mask]
        feed["history_value"][position, :n] = query.history.values[mask]
        feed["history_age"][position, :n] = np.maximum(query.as_of - query.history.timestamps[mask], 0)
        feed["history_mask"][position, :n] = True
    return feed
