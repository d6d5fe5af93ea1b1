"""Trains ItemCF: EASE among the most-rated items, as many as fit the memory, similarity wherever another item is
involved.

How many that are follows from the configuration alone, so that the models of every cut-off, evaluated and served, are
of one kind.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse import csc_array
from tqdm import tqdm

from offline.dataset.interactions import Snapshot
from offline.recall.interaction_matrix import interaction_matrix, value_range
from offline.recall.itemcf.ease import MOST_USERS_PER_ITEM, ease_weights
from offline.recall.itemcf.neighbours import NeighbourLists
from offline.recall.itemcf.similarity import Similarity, bm25, similarity_blocks, strongest
from recall_server.channels.evidence import ValueScale
from recall_server.channels.itemcf import (
    FACTS_FILE,
    NEIGHBOURS_FILE,
    WEIGHTS_FILE,
    ItemCFFacts,
)

_LOG = logging.getLogger(__name__)
_MEBIBYTE = 2**20
_BLOCK_MEMORY = 256 * _MEBIBYTE
"""What blocks of rows and their products take, whatever the data."""
_SCALE_SAMPLE = 256


class ItemCFConfig(BaseModel):
    """How item-item weights are learned, pruned, and applied to a history."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reg: float = Field(default=1_000, gt=0, description="L2 regularisation of EASE; more of it favours popular items")
    similarity: Literal["cosine", "bm25"] = Field(
        default="cosine", description="how items are linked that EASE does not cover; with ease_items 0, all of them"
    )
    shrink: float = Field(default=20, ge=0, description="shrinkage of the cosine")
    bm25_k1: float = Field(default=100, gt=0, description="how slowly BM25 saturates with the evidence of one user")
    bm25_b: float = Field(default=0.8, ge=0, le=1, description="how much BM25 discounts popular items")
    n_neighbours: int = Field(default=100, ge=1, description="strongest weights kept for each past item")
    max_memory_mib: int = Field(
        default=2_048,
        ge=1,
        description="memory limit of EASE, MiB: it covers the most-rated items, as many as fit; up to 56 bytes per "
        "event and 8 per link come on top",
    )
    ease_items: int = Field(
        default=20_000,
        ge=0,
        description="maximum number of items with EASE; its time grows with their third power; 0: none",
    )
    training_value_floor: float = Field(
        default=0.2, ge=0, le=1, description="what the lowest rating counts in training; the highest counts 1"
    )
    history_value_floor: float = Field(
        default=0.1, ge=0, le=1, description="what the lowest rating counts in a user's history; the highest counts 1"
    )
    min_value: float | None = Field(
        default=None, description="lowest rating that counts, in training and in a history; null: all count"
    )
    half_life_days: float | None = Field(
        default=30, gt=0, description="an event of the history loses half its weight in this time; null: never"
    )


def train(snapshot: Snapshot, config: ItemCFConfig, folder: Path) -> None:
    """Writes the files of `ItemCFChannel` below `folder`.

    Raises:
        DataError: EASE cannot be solved with `reg`.
    """
    low, high = value_range(snapshot.events.values)
    scale = ValueScale(low=low, high=high, floor=config.training_value_floor, least=config.min_value)
    users_by_items = csc_array(interaction_matrix(snapshot, scale))
    covered = _most_rated(users_by_items, ease_capacity(config))
    _LOG.info(
        "itemcf: EASE for %d of %d items, %s for the rest", len(covered), len(snapshot.catalogue), config.similarity
    )
    neighbours, weights = _link(users_by_items, covered, config).arrays()
    facts = ItemCFFacts(
        items=len(snapshot.catalogue),
        neighbours=weights.shape[1],
        ease_items=len(covered),
        value_scale=ValueScale(low=low, high=high, floor=config.history_value_floor, least=config.min_value),
        half_life_days=config.half_life_days,
    )
    (folder / FACTS_FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / FACTS_FILE).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
    np.save(folder / NEIGHBOURS_FILE, neighbours)
    np.save(folder / WEIGHTS_FILE, weights)


def ease_capacity(config: ItemCFConfig) -> int:
    """How many items EASE covers at most: its dense float32[n, n], and blocks of it, fit `max_memory_mib`.

    Where EASE inverts users × users it needs a second matrix, float32[users, n], which is never more than a share of
    the first. Room for it is left at every cut-off: users come in from one to the next.
    """
    free = max(config.max_memory_mib * _MEBIBYTE - _BLOCK_MEMORY, 0)
    return min(config.ease_items, math.isqrt(int(free / 4 / (1 + MOST_USERS_PER_ITEM))))


def _most_rated(users_by_items: csc_array, n: int) -> NDArray[np.int64]:
    """int64[at most n], ascending: the items with most events, ties by row; none without events."""
    counts = np.diff(users_by_items.indptr)
    rows = np.argsort(-counts, kind="stable")[:n]
    return np.sort(rows[counts[rows] > 0]).astype(np.int64)


def _link(users_by_items: csc_array, covered: NDArray[np.int64], config: ItemCFConfig) -> NeighbourLists:
    rated = np.flatnonzero(np.diff(users_by_items.indptr))
    others = np.setdiff1d(rated, covered, assume_unique=True)
    lists = NeighbourLists(users_by_items.shape[1], config.n_neighbours)
    if config.similarity == "bm25":
        similarity = Similarity(bm25(users_by_items, k1=config.bm25_k1, b=config.bm25_b), None)
    else:
        similarity = Similarity(users_by_items, config.shrink)
    scale = 1.0
    if len(covered):
        weights = ease_weights(users_by_items[:, covered], config.reg)
        if len(others):
            scale = _similarity_scale(similarity, covered, weights)
        for row, source in enumerate(tqdm(covered, desc="itemcf: EASE", unit="item", leave=False, disable=None)):
            lists.put(int(source), covered, weights[row])
        del weights
        _link_by_similarity(lists, similarity, covered, targets=others, scale=scale)
    _link_by_similarity(lists, similarity, others, targets=rated, scale=scale)
    return lists


def _link_by_similarity(
    lists: NeighbourLists,
    similarity: Similarity,
    sources: NDArray[np.int64],
    *,
    targets: NDArray[np.int64],
    scale: float,
) -> None:
    if not len(sources) or not len(targets):
        return
    links = strongest(similarity, sources, targets, k=lists.k, scale=scale)
    for source, rows, weights in tqdm(
        links, desc="itemcf: similarity", total=len(sources), unit="item", leave=False, disable=None
    ):
        lists.put(source, rows, weights)


def _similarity_scale(similarity: Similarity, covered: NDArray[np.int64], weights: NDArray[np.float32]) -> float:
    """The factor that brings similarities S to the scale of EASE's weights B, from a sample of rows.

    It minimises |factor · S - max(B, 0)|², so it is sum(S · max(B, 0)) / sum(S²).
    """
    positions = np.unique(np.linspace(0, len(covered) - 1, _SCALE_SAMPLE).astype(np.int64))
    both = squares = 0.0
    for block, of_block in similarity_blocks(similarity, covered[positions], covered):
        found = of_block.toarray()[:, covered]
        both += float((found * np.maximum(weights[positions[block]], 0)).sum())
        squares += float((found**2).sum())
    return both / squares if both > 0 else 1.0
