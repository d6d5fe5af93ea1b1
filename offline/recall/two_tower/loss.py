"""Sampled softmax over in-batch and uniform negatives, with the logQ correction for their mixture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASKED = -1e9


@dataclass(frozen=True, slots=True)
class ItemSample:
    """The items that one step scores: c rows, no row twice, in ascending order."""

    rows: NDArray[np.int64]
    correction: NDArray[np.float32]
    """float32[c]: log of how often the row was drawn over how often it is expected to be, so that the sum of
    exp(score + correction) over the sample is an unbiased estimate of the sum of exp(score) over all items."""

    def positions(self, rows: NDArray[np.int64], n_items: int) -> NDArray[np.int64]:
        """Position in the sample of each of `rows`, -1 where it was not drawn."""
        position = np.full(n_items, -1, np.int64)
        position[self.rows] = np.arange(len(self.rows))
        return position[rows]


@dataclass(frozen=True, slots=True)
class NegativeSampler:
    """Draws the negatives of a step from the rows that training knows."""

    known_rows: NDArray[np.int64]
    """Rows with at least one event: an item nobody could have chosen yet is no negative."""
    target_share: NDArray[np.float64]
    """float64[items]: the share of each item among the epoch's targets, which is what in-batch negatives follow."""
    uniform: int
    """Uniform negatives per step; as many as there are known rows means all of them, and the loss is exact."""

    def sample(self, targets: NDArray[np.int64], rng: np.random.Generator) -> ItemSample:
        """Draws around the step's `targets` (rows, repeated as they occur)."""
        # Enough negatives for the whole catalogue: every item once, and nothing to correct.
        if self.uniform >= len(self.known_rows):
            return ItemSample(self.known_rows, np.zeros(len(self.known_rows), np.float32))
        # The targets of the batch, and uniform negatives; an item drawn more than once is scored once.
        drawn = rng.choice(self.known_rows, self.uniform)
        rows, counts = np.unique(np.concatenate([targets, drawn]), return_counts=True)
        # logQ: an item is expected |targets| · its share of targets + uniform / |items| times.
        expected = len(targets) * self.target_share[rows] + self.uniform / len(self.known_rows)
        return ItemSample(rows, np.log(counts / expected).astype(np.float32))


def sampled_softmax(
    scores: Tensor, correction: Tensor, targets: Tensor, target_weights: Tensor, seen: Tensor
) -> Tensor:
    """Mean negative log-likelihood of the targets, each against everything else that could have been chosen.

    `scores` is float32[q, c] over the sample, `targets` int64[q, t] positions in it, `target_weights` float32[q, t]
    (0 pads), `seen` bool[q, c]. A target's own score is not corrected, for it is always in its own sum (Khrylchenko et
    al. 2025, "Correcting the LogQ Correction"). The user's other targets are accidental hits and no negatives, and what
    the user has seen cannot be recommended again: it is neither negative nor target.
    """
    # A target that the history holds already has no weight.
    weights = target_weights * torch.gather(seen, 1, targets).logical_not()
    # Log of the sum over negatives: own targets and seen items are masked, the others corrected by logQ.
    own = torch.zeros_like(scores).scatter_add_(1, targets, target_weights) > 0
    negatives = (scores + correction).masked_fill(own | seen, _MASKED)
    rest = torch.logsumexp(negatives, dim=1, keepdim=True)
    # -log(e^s / (e^s + e^rest)) = softplus(rest - s) of each target's score s, averaged by weight.
    chosen = torch.gather(scores, 1, targets)
    losses = torch.nn.functional.softplus(rest - chosen)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)
