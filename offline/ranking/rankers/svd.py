"""Trains the rating model: alternating ridge regressions of users on items and of items on users.

    minimise  sum over ratings of (z - b_u - b_i - p_u · q_i)²
              + sum over users and items of reg · (n + 1) · |vector|² + bias_reg · bias²

z is the standardised rating, n the number of ratings of that user or item (weighted-λ regularisation). With one side
fixed, each user or item of the other is a ridge regression of its own. Zhou, Wilkinson, Schreiber, Pan, "Large-scale
Parallel Collaborative Filtering for the Netflix Prize" (ALS-WR), AAIM 2008; here with biases.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from offline.dataset.interactions import Snapshot
from recsys.domain import Floats32
from recsys.features.rating import RatingModel, solve, with_one

log = logging.getLogger(__name__)


class RatingConfig(BaseModel):
    """Shape and training of the rating model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factors: int = Field(default=16, ge=1, description="length of the item vectors")
    reg: float = Field(default=0.08, gt=0, description="ridge per rating, of the vectors of users and of items")
    bias_reg: float = Field(default=3.0, gt=0, description="ridge of the biases of users and of items, in ratings")
    max_sweeps: int = Field(
        default=12, ge=1, description="maximum number of passes over users and items; validation chooses"
    )
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="share of the ratings, the latest, that choose the number of passes"
    )
    seed: int = Field(default=1, ge=0, description="seed of the first vectors")


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings as parallel arrays in any order."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    values: Floats32

    def take(self, index: NDArray[np.bool_]) -> Ratings:
        """Those at `index`."""
        return Ratings(self.users[index], self.items[index], self.values[index])


def train_rating_model(snapshot: Snapshot, folder: Path, config: RatingConfig) -> float:
    """Writes the files of `RatingModel` below `folder`; returns the RMSE on held-out ratings, NaN where there are none.

    The latest ratings choose the number of sweeps, then everything is used with that many.
    """
    # Events with a rating, by catalogue row and user row.
    events = snapshot.events
    rated = np.isfinite(events.values)
    ratings = Ratings(
        events.user_rows[rated].astype(np.int64), events.item_rows[rated].astype(np.int64), events.values[rated]
    )
    n_items = len(snapshot.catalogue)
    times = events.timestamps[rated]
    # The latest ratings are held out to choose the number of sweeps.
    sweeps, curve, baseline = config.max_sweeps, list[float](), float("nan")
    if len(times):
        early = times <= np.quantile(times, 1 - config.validation_fraction, method="lower")
        if early.any() and not early.all():
            known, held_out = ratings.take(early), ratings.take(~early)
            curve = [rmse(model, known, held_out) for model in _sweep(known, n_items, config, config.max_sweeps)]
            sweeps, baseline = int(np.argmin(curve)) + 1, float(held_out.values.std())
    # Then everything is used with that many.
    *_, model = _sweep(ratings, n_items, config, sweeps)
    error = min(curve, default=float("nan"))
    facts = {"sweeps": sweeps, "rmse": curve, "rmse_of_mean": baseline} if curve else {}
    model.save(folder, **facts)
    log.info("rating model: %d ratings, %d sweeps, RMSE on the latest %.4f", len(times), sweeps, error)
    return error


def rmse(model: RatingModel, known: Ratings, held_out: Ratings) -> float:
    """The root mean squared error on `held_out`, each user folded in from their ratings in `known`."""
    # Fold in each held-out user once: known.users[order[start:end]] are that user's ratings in `known`.
    order = np.argsort(known.users, kind="stable")
    users, user_rows = np.unique(held_out.users, return_inverse=True)
    starts = np.searchsorted(known.users, users, side="left", sorter=order)
    ends = np.searchsorted(known.users, users, side="right", sorter=order)
    folded = np.stack(
        [
            model.fold_in(known.items[own], known.values[own])
            for own in (order[start:end] for start, end in zip(starts, ends, strict=True))
        ]
    )
    # z = b_u + b_i + p_u · q_i, where the user's bias is the last entry of `folded`, next to a one of the item.
    standard = (with_one(model.vectors[held_out.items]) * folded[user_rows]).sum(axis=1) + model.biases[held_out.items]
    return float(np.sqrt(np.mean((model.mean + model.spread * standard - held_out.values) ** 2)))


def _sweep(ratings: Ratings, n_items: int, config: RatingConfig, sweeps: int) -> list[RatingModel]:
    """The model after each sweep."""
    # Standardise; item vectors start at random, item biases at their shrunk means, users follow from them.
    rng = np.random.default_rng(config.seed)
    mean = float(ratings.values.mean()) if len(ratings.values) else 0.0
    spread = float(ratings.values.std()) if len(ratings.values) else 0.0
    n_users = int(ratings.users.max(initial=-1)) + 1
    standard = (ratings.values - np.float32(mean)) / np.float32(spread or 1.0)
    items = rng.normal(0.0, 0.1, (n_items, config.factors + 1)).astype(np.float32)
    items[:, -1] = _shrunk_means(ratings.items, standard, n_items, config.bias_reg)
    by_user, by_item = _Groups.of(ratings.users, n_users), _Groups.of(ratings.items, n_items)
    models = []
    for _ in range(sweeps if len(standard) and spread else 1):
        users = by_user.solve(items, ratings.items, standard, config)
        items = by_item.solve(users, ratings.users, standard, config)
        models.append(RatingModel(items[:, :-1].copy(), items[:, -1].copy(), mean, spread, config.reg, config.bias_reg))
    return models


@dataclass(frozen=True, slots=True)
class _Groups:
    """The ratings of each user, or of each item: those of group g are order[indptr[g]:indptr[g + 1]]."""

    order: NDArray[np.int64]
    indptr: NDArray[np.int64]

    @classmethod
    def of(cls, rows: NDArray[np.int64], n: int) -> _Groups:
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))]).astype(np.int64)
        return cls(np.argsort(rows, kind="stable"), indptr)

    def solve(self, others: Floats32, columns: NDArray[np.int64], standard: Floats32, config: RatingConfig) -> Floats32:
        """float32[groups, factors + 1]: vectors and, last, biases, with those of the other side (`others`) fixed."""
        solved = np.zeros((len(self.indptr) - 1, others.shape[1]), np.float32)
        # Regress z less the other side's bias on the other side's vectors and a one, whose coefficient is the own bias.
        for group in np.flatnonzero(np.diff(self.indptr)):
            own = self.order[self.indptr[group] : self.indptr[group + 1]]
            rows = columns[own]
            solved[group] = solve(
                with_one(others[rows, :-1]), standard[own] - others[rows, -1], config.reg, config.bias_reg
            )
        return solved


def _shrunk_means(rows: NDArray[np.int64], standard: Floats32, n: int, reg: float) -> Floats32:
    """float32[n]: sum of the group's values / (count + reg), the bias of a model without vectors."""
    counts, sums = np.bincount(rows, minlength=n), np.bincount(rows, standard, minlength=n)
    return (sums / (counts + reg)).astype(np.float32)
