"""What a user would rate an item: biased matrix factorisation, the user folded in from the history at hand.

    rating(u, i) = mean + spread · (b_u + b_i + p_u · q_i)          (Koren, Bell, Volinsky 2009, "Matrix factorization")

Only items have stored numbers. b_u and p_u are the ridge regression of the user's own ratings on the vectors of what
was rated, so a rating given a second ago counts, and a user nobody trained on has a prediction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recsys.arrays import open_array
from recsys.domain import Floats32
from recsys.errors import BundleMismatch

VECTORS_FILE = "rank/rating/vectors.npy"
BIASES_FILE = "rank/rating/biases.npy"
FACTS_FILE = "rank/rating/facts.json"


@dataclass(frozen=True, slots=True)
class RatingModel:
    """Item vectors and biases in units of `spread`; safe to use from several threads."""

    vectors: Floats32
    """float32[items, factors] by catalogue row; zeros for an item nobody rated."""
    biases: Floats32
    """float32[items]."""
    mean: float
    """Mean of all ratings."""
    spread: float
    """Their standard deviation; 0 where there are no ratings, and every prediction is `mean`."""
    reg: float
    """Ridge of the user's vector per rating of the user, plus once: that of n ratings is reg · (n + 1)."""
    bias_reg: float
    """Ridge of the user's bias, however many ratings there are: the weight, in ratings, of a prior at the mean."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Maps what `save` wrote below `folder`. Raises BundleMismatch where the arrays do not belong together."""
        vectors = open_array(folder / VECTORS_FILE)
        biases = open_array(folder / BIASES_FILE)
        if vectors.ndim != 2 or biases.shape != vectors.shape[:1]:
            raise BundleMismatch(
                f"{folder / VECTORS_FILE}: shape {vectors.shape} next to biases of shape {biases.shape}, expected "
                "[items, factors] and [items]; publish again"
            )
        facts = json.loads((folder / FACTS_FILE).read_text("utf-8"))
        return cls(vectors, biases, facts["mean"], facts["spread"], facts["reg"], facts["bias_reg"])

    def save(self, folder: Path, **more: Any) -> None:
        """Writes the three files below `folder`; `more` is kept in the facts for people."""
        (folder / FACTS_FILE).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / VECTORS_FILE, self.vectors)
        np.save(folder / BIASES_FILE, self.biases)
        facts = {"mean": self.mean, "spread": self.spread, "reg": self.reg, "bias_reg": self.bias_reg, **more}
        (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")

    def predict(self, history_rows: NDArray[np.int64], history_values: Floats32, rows: NDArray[np.int64]) -> Floats32:
        """float32[len(rows)]: the rating expected for the items at catalogue rows `rows`, not cut to any scale.

        `history_rows` and `history_values` are parallel, in any order; events whose value is NaN are ignored.
        """
        user = self.fold_in(history_rows, history_values)
        standard = self.vectors[rows] @ user[:-1] + self.biases[rows] + user[-1]
        predicted: Floats32 = (np.float32(self.mean) + np.float32(self.spread) * standard).astype(np.float32)
        return predicted

    def fold_in(self, history_rows: NDArray[np.int64], history_values: Floats32) -> Floats32:
        """float32[factors + 1]: the user's vector and, last, bias; zeros for a user without ratings."""
        rated = np.isfinite(history_values)
        if not rated.any() or self.spread == 0.0:
            return np.zeros(self.vectors.shape[1] + 1, np.float32)
        rows = history_rows[rated]
        wanted = (history_values[rated] - np.float32(self.mean)) / np.float32(self.spread) - self.biases[rows]
        return solve(with_one(self.vectors[rows]), wanted.astype(np.float32), self.reg, self.bias_reg)


def with_one(vectors: Floats32) -> Floats32:
    """float32[n, factors + 1]: a last column of ones, which stands for the bias."""
    return np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], axis=1)


def solve(design: Floats32, wanted: Floats32, reg: float, bias_reg: float) -> Floats32:
    """float32[columns]: the ridge regression of `wanted` on `design`, whose last column is ones: a ridge of
    reg · (n + 1) on the others, of `bias_reg` on the last."""
    normal = design.T @ design
    ridge = np.full(len(normal), reg * (len(wanted) + 1), np.float32)
    ridge[-1] = bias_reg
    normal[np.diag_indices_from(normal)] += ridge
    solved: Floats32 = np.linalg.solve(normal, design.T @ wanted).astype(np.float32)
    return solved
