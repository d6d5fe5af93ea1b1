"""Trains the ALS channel with implicit's alternating least squares; only item factors are kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array, csr_matrix
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from offline.dataset.interactions import Snapshot
from offline.recall.interaction_matrix import interaction_matrix, value_range
from offline.recall.item_index import ItemIndexConfig, histories_of, index_channel
from recall_server.channels.als import FACTORS_FILE, FACTS_FILE, GRAM_FILE, ALSChannel, ALSFacts
from recall_server.channels.evidence import ValueScale

_LOG = logging.getLogger(__name__)

_ONE_LIST = 0.01
"""Where the second singular value of the factors is a smaller part of the first, all users get about the same list."""
_NOTHING = 1e-6
"""Singular values of factors that are smaller hold nothing but rounding."""


class ALSConfig(ItemIndexConfig):
    """How factors are learned, how a history is folded in, and the index of a large catalogue."""

    factors: int = Field(default=64, ge=1, le=1_024, description="length of a factor vector")
    reg: float = Field(
        default=50, gt=0, description="L2 regularisation of user and item factors; more of it favours popular items"
    )
    confidence: float = Field(
        default=1, gt=0, description="confidence of an event that counts in full; an item not taken has 1"
    )
    iterations: int = Field(default=15, ge=1, description="alternations of users and items")
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
    threads: int = Field(default=0, ge=0, description="threads that train; 0: all cores. The outcome is the same")
    seed: int = Field(default=1, ge=0, description="seed of the initial factors")


def train(snapshot: Snapshot, config: ALSConfig, folder: Path) -> None:
    """Writes the files of `ALSChannel` below `folder`."""
    low, high = value_range(snapshot.events.values)
    scale = ValueScale(low=low, high=high, floor=config.training_value_floor, least=config.min_value)
    factors = item_factors(interaction_matrix(snapshot, scale), config)
    products = factors.T.astype(np.float64) @ factors.astype(np.float64)
    if is_one_list(products):
        _LOG.warning(
            "als: --als.reg %g leaves nothing of %d items that tells users apart, so lists are by popularity at best; "
            "set a smaller one (the more interactions, the larger it may be)",
            config.reg,
            len(factors),
        )
    gram = products + config.reg * np.eye(config.factors)
    facts = ALSFacts(
        items=len(factors),
        factors=config.factors,
        confidence=config.confidence,
        value_scale=ValueScale(low=low, high=high, floor=config.history_value_floor, least=config.min_value),
        half_life_days=config.half_life_days,
    )
    (folder / FACTS_FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / FACTS_FILE).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
    np.save(folder / FACTORS_FILE, factors)
    np.save(folder / GRAM_FILE, gram)
    channel = ALSChannel(snapshot.catalogue, facts, factors=factors, gram=gram)
    index_channel(channel, histories_of(snapshot), config, folder, seed=config.seed)


def item_factors(users_by_items: csr_array, config: ALSConfig) -> NDArray[np.float32]:
    """float32[items, factors]; 0 for an item that nobody has taken.

    The entries of `users_by_items`, float32[users, items], are evidence within (0, 1].
    """
    taken = np.bincount(users_by_items.indices, minlength=users_by_items.shape[1]) > 0
    if not taken.any():
        return np.zeros((users_by_items.shape[1], config.factors), np.float32)
    model = fit(users_by_items, config)
    return np.where(taken[:, None], model.item_factors, 0).astype(np.float32)


def is_one_list(products: NDArray[np.float64]) -> bool:
    """Whether item factors F point in about one direction at most, so that users do not differ.

    `products` is FᵀF, float64[factors, factors]. Where all are 0 it is that of a log without events.
    """
    if not products.any() or len(products) == 1:
        return False
    second, first = np.sqrt(np.maximum(np.linalg.eigvalsh(products)[-2:], 0))
    return bool(second < max(_ONE_LIST * first, _NOTHING))


def fit(users_by_items: csr_array, config: ALSConfig) -> Any:
    """implicit's AlternatingLeastSquares of the matrix.

    Its own threads call BLAS, and more of those would fight for the cores. They are limited after the import, which
    brings a BLAS of its own.
    """
    # Here, not above: it takes a second, and most bundles have no ALS.
    from implicit.cpu.als import AlternatingLeastSquares  # type: ignore[import-untyped]

    with (
        threadpool_limits(1, user_api="blas"),
        tqdm(total=config.iterations, desc="als", unit="iteration", leave=False, disable=None) as progress,
    ):
        model = AlternatingLeastSquares(
            factors=config.factors,
            regularization=config.reg,
            alpha=config.confidence,
            iterations=config.iterations,
            num_threads=config.threads,
            random_state=config.seed,
        )
        model.fit(csr_matrix(users_by_items), show_progress=False, callback=lambda *_: progress.update())
    return model
