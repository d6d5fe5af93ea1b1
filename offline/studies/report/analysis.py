"""What vectors show: neighbours, a map, similarity of pairs, groups of users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans  # type: ignore[import-untyped]
from sklearn.decomposition import PCA  # type: ignore[import-untyped]
from sklearn.manifold import TSNE  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits

from offline.studies.report.embeddings import Embeddings
from recsys.domain import Floats64, Ids

PERPLEXITY = 30.0
MIN_TSNE_ITEMS = 10
"""Fewer points have no neighbourhoods worth the name: PCA shows them."""
PAIRS = 20_000
SHOWN_GENRES = 8
SHOWN_FILMS = 5
MIN_SHARE = 0.05
"""A film that fewer of a group's users took does not describe it."""


def nearest(embeddings: Embeddings, row: int, n: int) -> list[tuple[int, float]]:
    """The `n` items most like item `row` and their cosine, best first, ties by row."""
    similarity = embeddings.item_space @ embeddings.item_space[row]
    similarity[row] = -np.inf
    best = np.argsort(-similarity, kind="stable")[: min(n, len(similarity) - 1)]
    return [(int(other), float(similarity[other])) for other in best]


def flat_map(vectors: Floats64, *, method: str, seed: int) -> Floats64:
    """float64[n, 2]: points in which neighbours are near each other (t-SNE, van der Maaten & Hinton 2008), or PCA."""
    if method == "pca" or len(vectors) < MIN_TSNE_ITEMS:
        wide = vectors if vectors.shape[1] > 1 else np.hstack([vectors, np.zeros_like(vectors)])
        points: Floats64 = PCA(2, random_state=seed).fit_transform(wide)
        return points
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    with threadpool_limits(1):  # sums in one order: the same map on any number of cores
        return np.asarray(model.fit_transform(vectors.astype(np.float32)), np.float64)


def shown_genres(embeddings: Embeddings, rows: Ids) -> tuple[list[str], NDArray[np.int64]]:
    """The genres that colour a picture, most frequent first, and the index of each row's (-1: none of them).

    An item of several of them shows its rarest, the most specific.
    """
    genres = embeddings.catalogue.genres[rows]
    frequent = np.argsort(-genres.sum(axis=0), kind="stable")[:SHOWN_GENRES]
    frequent = frequent[genres[:, frequent].any(axis=0)]
    has = genres[:, frequent]
    chosen = np.where(has.any(axis=1), has.shape[1] - 1 - has[:, ::-1].argmax(axis=1), -1) if len(frequent) else None
    names = [embeddings.catalogue.genre_names[column] for column in frequent]
    return names, np.full(len(rows), -1) if chosen is None else chosen.astype(np.int64)


@dataclass(frozen=True)
class PairSimilarity:
    """Cosines of pairs, by kind of pair."""

    any_items: Floats64
    genre_items: Floats64
    """Pairs of items that share a genre."""
    nearest_items: Floats64
    """Of each item, the one most like it."""
    any_users: Floats64


def pair_similarity(embeddings: Embeddings, *, seed: int) -> PairSimilarity:
    """Cosines of `PAIRS` random pairs, and of as many items with their nearest."""
    rng = np.random.default_rng(seed)
    items, users, genres = embeddings.item_space, embeddings.user_space, embeddings.catalogue.genres
    a, b = _pairs(rng, len(items))
    cosines = np.einsum("nd,nd->n", items[a], items[b])
    shared = (genres[a] & genres[b]).any(axis=1)
    sample = rng.permutation(len(items))[:2_000]
    best = np.asarray([nearest(embeddings, int(row), 1)[0][1] for row in sample]) if len(items) > 1 else np.zeros(0)
    c, d = _pairs(rng, len(users))
    return PairSimilarity(cosines, cosines[shared], best, np.einsum("nd,nd->n", users[c], users[d]))


def _pairs(rng: np.random.Generator, n: int) -> tuple[Ids, Ids]:
    """Pairs of different rows."""
    if n < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first = rng.integers(n, size=PAIRS)
    return first, (first + rng.integers(1, n, size=PAIRS)) % n


def dimensions_used(vectors: Floats64) -> float:
    """The participation ratio (Σλ)²/Σλ² of the covariance's eigenvalues: how many dimensions vary alike.

    1 where all vectors lie on a line, d where they fill d dimensions evenly.
    """
    values = np.linalg.eigvalsh(np.atleast_2d(np.cov(vectors.T))) if len(vectors) > 1 else np.zeros(1)
    squares = float((values**2).sum())
    return float(values.sum()) ** 2 / squares if squares > 0 else 0.0


@dataclass(frozen=True)
class Group:
    """Users whose vectors are alike."""

    users: int
    median_events: float
    genre_lift: NDArray[np.float64]
    """float64[genres]: share of the group's events in a genre, divided by that of all users; NaN without any."""
    films: tuple[int, ...]
    """Rows of items that its users took and others did not, most telling first."""


def user_groups(embeddings: Embeddings, n: int, *, seed: int) -> tuple[NDArray[np.int64], list[Group]]:
    """The group of each user (k-means in `user_space`), and what describes each group; largest first."""
    n = min(n, len(np.unique(embeddings.user_space, axis=0)))
    with threadpool_limits(1):
        labels = KMeans(n, n_init=4, random_state=seed).fit_predict(embeddings.user_space)
    order = np.argsort(-np.bincount(labels, minlength=n), kind="stable")
    ranks = np.argsort(order, kind="stable")[labels].astype(np.int64)
    return ranks, [_described(embeddings, ranks == group) for group in range(n)]


def _described(embeddings: Embeddings, members: NDArray[np.bool_]) -> Group:
    own = members[embeddings.event_users]
    genres = embeddings.catalogue.genres[embeddings.event_items]
    everybody, group = genres.mean(axis=0), genres[own].mean(axis=0) if own.any() else np.zeros(genres.shape[1])
    lift = np.divide(group, everybody, out=np.full(len(everybody), np.nan), where=everybody > 0)
    counts = np.bincount(embeddings.event_users, minlength=len(members))[members]
    return Group(int(members.sum()), float(np.median(counts)), lift, _telling(embeddings, own, int(members.sum())))


def _telling(embeddings: Embeddings, own: NDArray[np.bool_], size: int) -> tuple[int, ...]:
    """Items by p·log(p/q): p of the group's users took it, q of all users."""
    n = len(embeddings.catalogue)
    p = np.bincount(embeddings.event_items[own], minlength=n) / max(size, 1)
    q = embeddings.item_events / max(len(embeddings.users), 1)
    known = p >= MIN_SHARE
    score = np.full(n, -np.inf)
    score[known] = p[known] * np.log(p[known] / q[known])
    best = np.argsort(-score, kind="stable")[:SHOWN_FILMS]
    return tuple(int(row) for row in best if score[row] > 0)
