"""Re-ranking, optional: the list that also reflects the breadth of the user's taste and shows more of the catalogue.

Stateless: a list depends on the request and the bundle only, so what evaluation measures is what is served. The first
k positions do not depend on how many items were requested.

relevance    -log2(1 + position) in the incoming list, 1 is best, so any ranker's scale will do
exposure     plus a bonus per item, learned offline: with bonus b an item counts as one 2^b times further up
calibration  minus weight · KL(p ‖ q): p is the user's distribution over genres (decades), q that of the list so far.
             Steck, "Calibrated Recommendations", RecSys 2018; q is mixed with .01 p, as there
diversity    minus weight · the largest similarity to an item further up: the cosine of the genres. Carbonell and
             Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents", SIGIR 1998

The last two depend on the list so far: items are picked one by one, greedily, from the best `depth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gateway.pipeline.post_ranking import OrderedCandidates, PostRankingStage
from gateway.pipeline.request import RequestContext
from recsys.bundle import RerankPolicy
from recsys.catalogue import NO_YEAR, Catalogue
from recsys.domain import EVENT_WEIGHTS, Floats64, History, Ids, Mask, Scores
from recsys.errors import BundleDamaged

BONUS_FILE = "gateway/exposure_bonus.npy"
MIXED_IN = 0.01
"""Share of the wanted distribution in the list's own: an empty class is heavily penalised, but not infinitely."""
_NOTHING = 1e-6
"""Mass of an empty list, instead of 0: a first item of which nothing is known is far from every distribution."""
_YEARS = 10


@dataclass(frozen=True)
class Reranker(PostRankingStage):
    """Re-ranks the candidates of one request."""

    name: ClassVar[str] = "rerank"
    catalogue: Catalogue
    policy: RerankPolicy
    bonus: NDArray[np.float32] | None = None
    """float32[items], by row of the catalogue; None: no item has a bonus."""

    @classmethod
    def open(cls, folder: Path, catalogue: Catalogue, policy: RerankPolicy) -> Reranker:
        """Reads `BONUS_FILE` below `folder` if the policy uses it.

        Raises:
            BundleDamaged: the file is missing or does not hold one finite number per item.
        """
        return cls(catalogue, policy, _read_bonus(folder / BONUS_FILE, len(catalogue)) if policy.exposure else None)

    def apply(self, ordered: OrderedCandidates, context: RequestContext) -> OrderedCandidates:
        """See `PostRankingStage`; `order` says how."""
        return ordered.reorder(self.order(ordered.candidates.item_ids, context.sequence, context.request.count))

    def order(self, item_ids: Ids, history: History, count: int) -> Ids:
        """int64[n]: positions of `item_ids` in the new order, of which only the first `count` are picked greedily.

        `item_ids` are known to the catalogue, best first; `history` is the evidence of the user's profile.
        """
        rows = self.catalogue.rows(item_ids)
        values = relevance(len(rows))
        if self.bonus is not None:
            values += self.bonus[rows]
        order = np.argsort(-values, kind="stable").astype(np.int64)
        head = order[: self.policy.depth]
        if self.policy.greedy and len(head):
            picked = self._pick(rows[head], values[head], history, count=min(count, len(head)))
            order[: len(head)] = head[np.concatenate([picked, np.delete(np.arange(len(head)), picked)])]
        return order

    def _pick(self, rows: Ids, values: Floats64, history: History, *, count: int) -> Ids:
        """int64[count]: positions of `rows`, in the order in which the greedy selection picks them."""
        profile = self._profile(rows, history)
        similarity = self.policy.diversity * cosines(self.catalogue.genres[rows])
        left, closest = values.copy(), np.zeros(len(rows))
        picked = np.empty(count, np.int64)
        for position in range(count):
            best = int((left - closest - profile.divergences()).argmax())
            picked[position], left[best] = best, -np.inf
            np.maximum(closest, similarity[best], out=closest)
            profile.take(best)
        return picked

    def _profile(self, rows: Ids, history: History) -> _CategoryProfile:
        """What the list is calibrated to, as far as the policy uses it and the user's history is evidence of it."""
        past = self.catalogue.rows(history.item_ids)
        weights = EVENT_WEIGHTS[history.types[past >= 0]].astype(np.float64)
        both, n = np.concatenate([past[past >= 0], rows]), len(weights)
        wanted = (
            (self.policy.genre_calibration, genre_shares(self.catalogue.genres[both])),
            (self.policy.decade_calibration, decade_shares(self.catalogue.years[both])),
        )
        return _CategoryProfile.joined(
            [_CategoryProfile.of(weight, weights @ shares[:n], shares[n:]) for weight, shares in wanted]
        )


@dataclass
class _CategoryProfile:
    """The user's distributions p over categories, joined side by side, and the list's distribution q so far.

    With s the sums of the shares of the list's items and m its mass, q = (1 - α) s / m + α p, where α is `MIXED_IN`, so

        KL(p ‖ q) = Σ p log(p / q) = -Σ p log(q / p),   q / p = ((1 - α) s / p + α m) / m.

    Everything is stored divided by p: adding an item is one sum, and each candidate costs one logarithm a category
    (Steck, "Calibrated Recommendations", RecSys 2018). float32, because a request spends its time here and only the
    order of the results matters.
    """

    weights: Scores
    """float32[classes]: weight · p, above 0."""
    shares: Scores
    """float32[n, classes]: what each candidate adds to the numerator of q / p: (1 - α) · share / p + α · mass."""
    mass: Scores
    """float32[n, classes]: what each candidate adds to m: 1, or 0 if its classes are unknown."""
    held: Scores
    """float32[classes]: the numerator of q / p of the list so far."""
    held_mass: Scores
    """float32[classes]: m, the mass of the list so far."""

    @classmethod
    def of(cls, weight: float, wanted: Floats64, shares: Floats64) -> _CategoryProfile:
        """One distribution p, proportional to `wanted`; classes that p lacks only count in the mass."""
        classes = np.flatnonzero(wanted * weight)
        p = wanted[classes] / (wanted.sum() or 1.0)
        mass = np.repeat(shares.sum(axis=1, keepdims=True), len(classes), axis=1)
        return cls._empty(weight * p, (1 - MIXED_IN) * shares[:, classes] / p + MIXED_IN * mass, mass)

    @classmethod
    def joined(cls, parts: Sequence[_CategoryProfile]) -> _CategoryProfile:
        """Several distributions, at least one."""
        return cls._empty(
            np.concatenate([part.weights for part in parts]),
            np.concatenate([part.shares for part in parts], axis=1),
            np.concatenate([part.mass for part in parts], axis=1),
        )

    @classmethod
    def _empty(cls, weights: Floats64 | Scores, shares: Floats64 | Scores, mass: Floats64 | Scores) -> _CategoryProfile:
        weights, shares, mass = (np.asarray(array, np.float32) for array in (weights, shares, mass))
        # An empty list has a tiny mass, all of it mixed in: q = α p until an item with known classes is added.
        held_mass = np.full(len(weights), _NOTHING, np.float32)
        return cls(weights, shares, mass, MIXED_IN * held_mass, held_mass)

    def divergences(self) -> Scores:
        """float32[n]: the sum of weight · KL(p ‖ q), with q the distribution of the list plus that candidate."""
        # q / p for the list plus each candidate; the constant p is part of `weights`.
        ratios = self.held + self.shares
        ratios /= self.held_mass + self.mass
        divergences: Scores = -(np.log(ratios, out=ratios) @ self.weights)
        return divergences

    def take(self, position: int) -> None:
        """Adds one candidate to the list."""
        self.held += self.shares[position]
        self.held_mass += self.mass[position]


def relevance(n: int) -> Floats64:
    """float64[n]: the relevance of the positions of a list, best first; twice as far down counts 1 less."""
    values: Floats64 = -np.log2(np.arange(2, n + 2, dtype=np.float64))
    return values


def cosines(genres: Mask) -> Floats64:
    """float64[n, n]: the cosine of each pair of rows of `genres`, bool[n, genres]; 0 where a row is empty."""
    unit = genres / np.maximum(np.sqrt(genres.sum(axis=1, keepdims=True)), 1.0)
    similarities: Floats64 = unit @ unit.T
    return similarities


def genre_shares(genres: Mask) -> Floats64:
    """float64[n, genres]: each item's genres in equal parts; all 0 for an item without any."""
    shares: Floats64 = genres / np.maximum(genres.sum(axis=1, keepdims=True), 1)
    return shares


def decade_shares(years: NDArray[np.int16]) -> Floats64:
    """float64[n, decades]: 1 at each item's decade, of those that occur; all 0 if the year is unknown."""
    decades, columns = np.unique(years // _YEARS, return_inverse=True)
    shares = np.zeros((len(years), len(decades)))
    known = np.flatnonzero(years != NO_YEAR)
    shares[known, columns[known]] = 1.0
    return shares


def _read_bonus(path: Path, n: int) -> NDArray[np.float32]:
    try:
        bonus = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleDamaged(f"{path}: cannot be read ({error}), the policy re-ranks with it; publish again") from None
    if bonus.shape != (n,) or bonus.dtype != np.float32 or not np.isfinite(bonus).all():
        raise BundleDamaged(
            f"{path}: {bonus.dtype} of shape {bonus.shape}, expected float32({n},), all finite; publish again"
        )
    return np.asarray(bonus)
