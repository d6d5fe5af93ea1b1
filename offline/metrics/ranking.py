"""Ranking metrics over the full catalogue, vectorised over requests, with bootstrap intervals over users.

With h the hits of a list (1 where the item is relevant), R the number of relevant items, K the cut:

    recall             sum(h[:K]) / R
    normalised_recall  sum(h[:K]) / min(K, R), as Liang et al. 2018 define recall
    precision          sum(h[:K]) / K
    hit_rate           1 where sum(h[:K]) > 0
    ndcg               sum(h[i] / log2(i + 2), i < K) / sum(1 / log2(i + 2), i < min(K, R)); binary relevance
    map                sum(h[i] · precision at i + 1, i < K) / min(K, R)
    mrr                1 / (i + 1) of the first hit i < K, else 0

A list shorter than K is filled up with misses. Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR
techniques", TOIS 2002, define ndcg; Voorhees, TREC-8 1999, mrr.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Floats64, Ids
from recsys.errors import ContractBroken

CUTS = (5, 10, 20, 50, 100)
LONGEST = max(CUTS)
NO_ITEM = -1
"""Fills up lists shorter than `LONGEST`."""


@dataclass(frozen=True, slots=True)
class Relevant:
    """What each request should find: the ids of request i are at indptr[i]:indptr[i + 1], in any order, no repeats."""

    indptr: Ids
    item_ids: Ids

    @classmethod
    def of(cls, item_ids: Sequence[Ids]) -> Relevant:
        """From one array per request; repeats are dropped."""
        unique = [np.unique(ids) for ids in item_ids]
        lengths = np.asarray([len(ids) for ids in unique], np.int64)
        joined = np.concatenate([*unique, np.empty(0, np.int64)]).astype(np.int64)
        return cls(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), joined)

    @property
    def counts(self) -> Ids:
        """int64[requests]."""
        return np.diff(self.indptr)

    def __len__(self) -> int:
        return len(self.indptr) - 1


def padded(lists: Sequence[Ids], length: int = LONGEST) -> Ids:
    """int64[requests, length]: each list cut or filled up with `NO_ITEM`."""
    result = np.full((len(lists), length), NO_ITEM, np.int64)
    for row, item_ids in enumerate(lists):
        result[row, : min(length, len(item_ids))] = item_ids[:length]
    return result


def hits_of(lists: Ids, relevant: Relevant) -> NDArray[np.bool_]:
    """bool[requests, K]: whether each item of each list is relevant; `NO_ITEM` never is."""
    # Number the relevant items 0 to n - 1, with a last id that no item has, so that every search finds a position.
    known = np.unique(np.concatenate([relevant.item_ids, [np.iinfo(np.int64).max]]))
    # A pair (request, item) is one number, request · n + item, so one set lookup answers all requests.
    requests = np.repeat(np.arange(len(relevant), dtype=np.int64), relevant.counts)
    wanted = requests * len(known) + np.searchsorted(known, relevant.item_ids)
    positions = np.searchsorted(known, lists)
    listed = np.arange(len(lists), dtype=np.int64)[:, None] * len(known) + positions
    hits: NDArray[np.bool_] = np.isin(listed, wanted) & (known[positions] == lists) & (lists != NO_ITEM)
    return hits


def per_request(hits: NDArray[np.bool_], relevant_counts: Ids, cuts: Sequence[int] = CUTS) -> dict[str, Floats64]:
    """Every metric at every cut as `name@K`: float64[requests]. Each request has at least one relevant item."""
    # Cumulated along the list, so that column K - 1 is the value at cut K.
    ranks = np.arange(1, hits.shape[1] + 1)
    found = hits.cumsum(axis=1)
    gains = np.where(hits, 1.0 / np.log2(ranks + 1.0), 0.0).cumsum(axis=1)
    # ideal[r] is the gain of a list that begins with r relevant items.
    ideal = np.concatenate([[0.0], (1.0 / np.log2(ranks + 1.0)).cumsum()])
    precisions = np.where(hits, found / ranks, 0.0).cumsum(axis=1)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.iinfo(np.int64).max)
    metrics: dict[str, Floats64] = {}
    for k in cuts:
        n, best = found[:, k - 1], np.minimum(relevant_counts, k)
        metrics[f"recall@{k}"] = n / relevant_counts
        metrics[f"normalised_recall@{k}"] = n / best
        metrics[f"precision@{k}"] = n / k
        metrics[f"ndcg@{k}"] = gains[:, k - 1] / ideal[best]
        metrics[f"hit_rate@{k}"] = (n > 0).astype(np.float64)
        metrics[f"map@{k}"] = precisions[:, k - 1] / best
        metrics[f"mrr@{k}"] = np.where(first <= k, 1.0 / first, 0.0)
    return metrics


def coverage(lists: Ids, catalogue_size: int, k: int) -> float:
    """The share of the catalogue that appears in at least one of the lists' first `k` positions."""
    shown = np.unique(lists[:, :k])
    return float(np.count_nonzero(shown != NO_ITEM) / max(catalogue_size, 1))


def mean_popularity(lists: Ids, item_ids: Ids, event_counts: NDArray[np.int64], k: int) -> float:
    """How popular recommended items are: the mean, over the first `k` positions of all lists, of the share of the
    catalogue with fewer events. 0 is the least popular item, close to 1 the most popular.

    `item_ids` is the catalogue, sorted; `event_counts` is parallel to it.
    """
    shown = lists[:, :k]
    shown = shown[shown != NO_ITEM]
    if not len(shown):
        return 0.0
    percentiles = np.searchsorted(np.sort(event_counts), event_counts, side="left") / len(event_counts)
    return float(percentiles[np.searchsorted(item_ids, shown)].mean())


def intervals(values: Floats64, user_ids: Ids, *, resamples: int, seed: int) -> Floats64:
    """float64[metrics, 2]: 95 % percentile bootstrap intervals of the means of `values`, float64[requests, metrics].

    Users are resampled, each with all of their requests, since requests of one user are not independent.
    """
    # Sums and numbers of requests by user: the mean over requests of any sample of users follows from them.
    users, rows = np.unique(user_ids, return_inverse=True)
    n = len(users)
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, rows, values)
    counts = np.bincount(rows).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    for i in range(resamples):
        # How often each user is drawn in n draws with replacement.
        drawn = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        means[i] = drawn @ sums / (drawn @ counts)
    bounds: Floats64 = np.quantile(means, [0.025, 0.975], axis=0).T
    return bounds


def paired_interval(ours: Floats64, theirs: Floats64, user_ids: Ids, *, resamples: int, seed: int) -> Floats64:
    """float64[metrics, 3]: mean of ours - theirs, and the bounds of its 95 % bootstrap interval.

    Both are float64[requests, metrics] of the same requests, whose users are `user_ids`. Every resample draws the same
    users for both, so what makes a request hard for all systems cancels. Better means: the lower bound is above 0.
    """
    if ours.shape != theirs.shape:
        raise ContractBroken(f"values of shape {ours.shape} and {theirs.shape} are not of the same requests")
    difference = ours - theirs
    bounds = intervals(difference, user_ids, resamples=resamples, seed=seed)
    return np.column_stack([difference.mean(axis=0), bounds])
