"""Lists from scores, and the validation metric that chooses settings. The same code serves every peer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from peers.rows import Requests, RowsFolder

Scorer = Callable[[Requests], np.ndarray]
"""Requests → scores, requests × vocabulary, higher is better; not finite where the peer has no score."""

BLOCK = 512


def best_items(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and scores of each row's k best, best first, ties by the lower position; -1 where too few are finite.

    Raises nothing: rows with fewer finite scores end in -1 with score -inf.
    """
    found = np.where(np.isfinite(scores), scores, -np.inf)
    k_here = min(k, found.shape[1])
    order = np.argsort(-found, axis=1, kind="stable")[:, :k_here]
    best = np.take_along_axis(found, order, axis=1)
    return np.where(np.isfinite(best), order, -1), best


def list_items(scorer: Scorer, requests: Requests, rows: RowsFolder) -> tuple[np.ndarray, np.ndarray]:
    """Positions and scores, requests × list_length. Seen items and items outside the catalogue are never listed."""
    positions, scores = [], []
    for start in range(0, len(requests.ids), BLOCK):
        part = requests.part(np.arange(start, min(start + BLOCK, len(requests.ids))))
        block = np.array(scorer(part), dtype=np.float32)
        block[:, ~rows.listable] = -np.inf
        block[part.history.owner, part.history.item] = -np.inf
        best, values = best_items(block, int(rows.facts["list_length"]))
        positions.append(best)
        scores.append(values)
    return np.concatenate(positions), np.concatenate(scores)


def measure(positions: np.ndarray, relevant: sparse.csr_matrix, metric: str) -> float:
    """The mean over requests that have relevant items, of ndcg@k, hr@k, recall@k, precision@k or map@k.

    NDCG is binary, normalised by the ideal of min(k, |relevant|); recall divides by |relevant|, precision by k,
    average precision by min(k, |relevant|). Raises ValueError for any other metric.
    """
    name, _, cut = metric.partition("@")
    if name not in {"ndcg", "hr", "recall", "precision", "map"} or not cut.isdigit():
        raise ValueError(f"metric is {metric!r}; expected ndcg@k, hr@k, recall@k, precision@k or map@k")
    k = int(cut)
    top = np.full((len(positions), k), -1)
    top[:, : min(k, positions.shape[1])] = positions[:, :k]
    rows = np.arange(len(top))[:, None]
    hits = np.asarray(relevant[rows, np.maximum(top, 0)].todense()) * (top >= 0)
    counts = np.diff(relevant.indptr)
    hits, counts = hits[counts > 0].astype(bool), counts[counts > 0]
    return float(per_request(name, hits, counts).mean()) if len(counts) else 0.0


def per_request(name: str, hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """One figure a request from its hits (requests × k, in rank order) and number of relevant items."""
    k = hits.shape[1]
    most = np.minimum(counts, k)
    if name == "ndcg":
        gains = 1 / np.log2(np.arange(2, k + 2))
        figures = (hits * gains).sum(axis=1) / np.cumsum(gains)[most - 1]
    elif name == "map":
        figures = (hits * hits.cumsum(axis=1) / np.arange(1, k + 1)).sum(axis=1) / most
    elif name == "hr":
        figures = hits.any(axis=1)
    else:
        figures = hits.sum(axis=1) / (counts if name == "recall" else k)
    return np.asarray(figures, dtype=np.float64)


def write_lists(path: Path, requests: Requests, items: np.ndarray, lists: tuple[np.ndarray, np.ndarray]) -> int:
    """Writes request, rank (from 1), item_id, score in the order of requests and ranks; returns requests without any
    item."""
    positions, scores = lists
    request, rank = np.nonzero(positions >= 0)
    table = pa.table(
        {
            "request": requests.ids[request].astype(np.int64),
            "rank": (rank + 1).astype(np.int32),
            "item_id": items[positions[request, rank]].astype(np.int64),
            "score": scores[request, rank].astype(np.float32),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return int((positions < 0).all(axis=1).sum())
