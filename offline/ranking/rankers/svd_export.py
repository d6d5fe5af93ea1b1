"""The rating model as a ranker: an ONNX graph that folds the user in from the history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offline.ranking.rankers.graph import PARITY, export_graph
from offline.ranking.rankers.kind import RankerKind, TrialSettings
from offline.ranking.rankers.ranking_dataset import LabelledWindow, RankerTrial, RankingDataset
from offline.ranking.rankers.svd import RatingConfig
from offline.ranking.samples import Samples
from rank_server.onnx_graph import open_session
from recsys.errors import ContractBroken, DataError
from recsys.features.rating import RatingModel

INPUTS = ("item_row", "query_index", "history_row", "history_value", "history_mask")
_PROBED = (0, 1, 2, 10, 50, 200)
"""Lengths of the random histories on which graph and model are compared."""
_ROUNDS = 2
"""Rounds of conjugate gradients per unknown: one is exact in exact arithmetic, a second corrects single precision."""


class ServedRating(nn.Module):
    """`RatingModel.predict` for a batch: the ridge regression by conjugate gradients, since ONNX has no solver.

    Hestenes and Stiefel 1952, "Methods of conjugate gradients for solving linear systems".
    """

    def __init__(self, model: RatingModel) -> None:
        super().__init__()
        design = np.concatenate([model.vectors, np.ones((len(model.vectors), 1), np.float32)], axis=1)
        self.design: Tensor
        self.biases: Tensor
        self.register_buffer("design", torch.from_numpy(design))
        self.register_buffer("biases", torch.tensor(model.biases))
        self.model = model
        self.rounds = _ROUNDS * design.shape[1]

    def forward(self, *menu: Tensor) -> Tensor:
        """score[n] from `INPUTS`."""
        # Padding and events without a rating have the weight 0, so their rows of the design matrix are zeros.
        item_row, query_index, rows, values, present = menu
        mask = present.to(values.dtype)
        rated = mask * torch.isnan(values).logical_not().to(mask.dtype)
        spread = self.model.spread or 1.0
        # The regression's targets: standardised ratings less the items' biases, as in `RatingModel.fold_in`.
        wanted = (torch.where(rated > 0, values, torch.full_like(values, self.model.mean)) - self.model.mean) / spread
        # The normal equations (Xᵀ X + ridge) u = Xᵀ y, one system per query, solved for all queries at once.
        design = self.design[rows] * rated.unsqueeze(2)
        wanted = (wanted - self.biases[rows]) * rated
        user = self._solve(design, (design * wanted.unsqueeze(2)).sum(dim=1), rated.sum(dim=1, keepdim=True))
        # z = b_u + b_i + p_u · q_i for each candidate, and back to the scale of ratings.
        standard = (self.design[item_row] * user[query_index]).sum(dim=1) + self.biases[item_row]
        return self.model.mean + self.model.spread * standard

    def _solve(self, design: Tensor, right: Tensor, counts: Tensor) -> Tensor:
        """[q, columns]: the solutions x of A x = right with A = designᵀ design + ridge, by conjugate gradients.

        With r the residual and d the direction, all per query:

            α = r·r / d·A d,   x += α d,   r' = r - α A d,   d = r' + (r'·r' / r·r) d
        """
        # The ridge as in `recsys.features.rating.solve`: reg · (n + 1) on the vector, bias_reg on the last column.
        columns = torch.ones_like(right[:1])
        last = torch.cat([torch.zeros_like(columns[:, :-1]), columns[:, :1]], dim=1)
        ridge = self.model.reg * (counts + 1) * (1 - last) + self.model.bias_reg * last
        # Start from x = 0, where the residual is the right-hand side.
        found, residual, direction = torch.zeros_like(right), right, right
        norm = (residual * residual).sum(dim=1, keepdim=True)
        for _ in range(self.rounds):
            # A d = designᵀ (design d) + ridge ∘ d, without forming A.
            projected = (design * direction.unsqueeze(1)).sum(dim=2)
            image = (design * projected.unsqueeze(2)).sum(dim=1) + ridge * direction
            # A system that is solved has r = 0; the bounds keep its quotients finite.
            step = norm / (direction * image).sum(dim=1, keepdim=True).clamp(min=1e-20)
            found, residual = found + step * direction, residual - step * image
            following = (residual * residual).sum(dim=1, keepdim=True)
            direction = residual + following / norm.clamp(min=1e-20) * direction
            norm = following
        return found


def export_rating(model: RatingModel, path: Path) -> float:
    """Writes the graph `INPUTS` → `score[n]`; returns the largest difference to `RatingModel.predict` on random
    histories, in standard deviations of the ratings.

    Raises ContractBroken where it is above `PARITY`, or not a number.
    """
    rows = torch.zeros(2, dtype=torch.int64)
    example = (rows, rows, rows.repeat(3, 1).T, torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    axes = {name: {0: "queries", 1: "events"} for name in INPUTS[2:]}
    axes |= {name: {0: "candidates"} for name in (*INPUTS[:2], "score")}
    path.parent.mkdir(parents=True, exist_ok=True)
    export_graph(ServedRating(model), example, path, inputs=INPUTS, axes=axes)
    difference = _difference(model, path)
    if not difference <= PARITY:
        raise ContractBroken(
            f"{path}: ONNX Runtime's ratings differ from the model's by {difference:.2g} of a standard deviation, "
            f"allowed is {PARITY:.0e}; raise rating.reg, or check the versions of torch and onnxruntime"
        )
    return difference


def scores_of(model: RatingModel, samples: Samples) -> NDArray[np.float64]:
    """float64[n]: the rating expected of each candidate, whose rows are those of the model."""
    histories, bounds = samples.histories, np.concatenate([[0], np.cumsum(samples.groups)])
    parts = [np.empty(0, np.float32)]
    for request in range(len(samples.groups)):
        events = slice(histories.indptr[request], histories.indptr[request + 1])
        rows = np.asarray(samples.item_rows[bounds[request] : bounds[request + 1]], np.int64)
        known = np.asarray(histories.rows[events], np.int64)
        parts.append(model.predict(known, np.asarray(histories.values[events]), rows))
    return np.concatenate(parts).astype(np.float64)


def _difference(model: RatingModel, path: Path) -> float:
    session, rng, n_items = open_session(path), np.random.default_rng(0), len(model.biases)
    largest, spread = 0.0, model.spread or 1.0
    for length in _PROBED if n_items else ():
        rows, asked = rng.integers(0, n_items, max(length, 1)), rng.integers(0, n_items, 5)
        values = rng.normal(model.mean, spread, max(length, 1)).astype(np.float32)
        menu = (asked, np.zeros(5, np.int64), rows[None], values[None], np.full((1, len(rows)), length > 0))
        found = session.run(["score"], dict(zip(INPUTS, menu, strict=True)))[0]
        expected = model.predict(rows[:length], values[:length], asked)
        difference = np.abs(found - expected) / spread
        largest = max(largest, float(difference.max())) if np.isfinite(difference).all() else float("nan")
    return largest


@dataclass(frozen=True, slots=True)
class RatingRanker(RankerKind):
    """The rating model, which is trained elsewhere, as a baseline."""

    name: ClassVar[str] = "svd"
    config: RatingConfig

    def attempt(self, dataset: RankingDataset, held_out: LabelledWindow, folder: Path) -> RankerTrial:  # noqa: ARG002 - it is not continued
        """Nothing is chosen."""
        return RankerTrial({}, scores_of(_rating_of(dataset), held_out.samples), {})

    def train(self, dataset: RankingDataset, path: Path, settings: TrialSettings) -> None:  # noqa: ARG002 - there are none
        """Nothing is trained."""
        export_rating(_rating_of(dataset), path)


def _rating_of(dataset: RankingDataset) -> RatingModel:
    if dataset.rating is None:
        raise DataError("the ranker svd needs a rating model next to the samples; train one at the same cut-off")
    return RatingModel.open(dataset.rating)
