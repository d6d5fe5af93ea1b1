"""Losses of next-item training: each position scores the item that came next against the others, or a sample of them.

`users` is float32[n, d + 1] with a last column of ones, `items` float32[items, d + 1] with the bias in the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from offline.recall.two_tower.loss import ItemSample

_MASKED = -1e4
_CHUNK = 1024
_TINY = 1e-30

ObjectiveName = Literal["cross-entropy", "sampled-softmax", "gbce", "mse", "bpr", "mse+bpr"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one step scores: the chosen items of n positions, and c negatives that all positions share."""

    users: Tensor
    items: Tensor
    targets: Tensor
    """int64[n]: catalogue rows."""
    negatives: Tensor
    """int64[c]: catalogue rows, drawn uniformly with repetition; ignored where every item is scored."""
    known: Tensor
    """bool[items]: items somebody took; others are no negatives."""
    calibration: float
    """gBCE's t: 0 is plain BCE, 1 makes the scores those of a softmax over all items."""
    drawn: ItemSample | None = None
    """What cross-entropy is estimated from; None: it is over all items."""


def objective_loss(name: ObjectiveName, sample: Sample) -> Tensor:
    """The mean loss over positions."""
    return _OBJECTIVES[name](sample)


def _cross_entropy(sample: Sample) -> Tensor:
    """-log of the softmax over every known item; the others are masked. Where a sample was drawn, its estimate."""
    if sample.drawn is not None:
        return _estimated_cross_entropy(sample, sample.drawn)
    excluded = torch.where(sample.known, 0.0, _MASKED).to(sample.items.dtype)
    loss: Tensor = FullSoftmax.apply(sample.users, sample.items, excluded, sample.targets)  # type: ignore[no-untyped-call]
    return loss


def _estimated_cross_entropy(sample: Sample, drawn: ItemSample) -> Tensor:
    """-log(e^s / (e^s + sum of e^(score + correction) over what was drawn, but for the chosen item)): `sampled_softmax`
    with one target per position, whose own score is not corrected."""
    rows = torch.from_numpy(drawn.rows).to(sample.items.device)
    chosen = (sample.users * functional.embedding(sample.targets, sample.items)).sum(dim=1)
    scores = sample.users @ functional.embedding(rows, sample.items).T
    scores = scores + torch.from_numpy(drawn.correction).to(scores.device)
    others = scores.masked_fill(rows[None, :] == sample.targets[:, None], _MASKED)
    return functional.softplus(torch.logsumexp(others, dim=1) - chosen).mean()


def _sampled_softmax(sample: Sample) -> Tensor:
    """-log(e^s / (e^s + items / negatives · sum of e^others)): uniform draws make logQ one constant."""
    chosen, others = _scores(sample)
    rest = torch.logsumexp(others, dim=1) + math.log(int(sample.known.sum()) / others.shape[1])
    return functional.softplus(rest - chosen).mean()


def _gbce(sample: Sample) -> Tensor:
    """gBCE (Petrov and Macdonald 2023, "gSASRec"): -beta log σ(s) - sum of log(1 - σ(others)).

    With a share `rate` of the items sampled, beta = rate (t (1 - 1 / rate) + 1 / rate) runs from 1 (plain BCE) at t = 0
    to `rate` at t = 1, which undoes the overconfidence that sampling causes.
    """
    chosen, others = _scores(sample)
    rate = min(others.shape[1] / max(int(sample.known.sum()) - 1, 1), 1.0)
    beta = rate * (sample.calibration * (1 - 1 / rate) + 1 / rate)
    return (beta * functional.softplus(-chosen) + functional.softplus(others).sum(dim=1)).mean()


def _mse(sample: Sample) -> Tensor:
    """1 for what was chosen, 0 for a negative; both halves weigh the same."""
    chosen, others = _scores(sample)
    return ((chosen - 1) ** 2 + _mean_square(others)).mean()


def _bpr(sample: Sample) -> Tensor:
    """-log σ(s - other), averaged (Rendle et al. 2009, "BPR")."""
    chosen, others = _scores(sample)
    return functional.softplus(others - chosen[:, None]).mean()


def _mse_and_bpr(sample: Sample) -> Tensor:
    return _mse(sample) + _bpr(sample)


def _mean_square(others: Tensor) -> Tensor:
    hits = others > _MASKED
    return torch.where(hits, others**2, 0.0).sum(dim=1) / hits.sum(dim=1).clamp(min=1)


def _scores(sample: Sample) -> tuple[Tensor, Tensor]:
    """[n] of the chosen items and [n, c] of the negatives; a negative that was chosen is masked."""
    chosen = (sample.users * functional.embedding(sample.targets, sample.items)).sum(dim=1)
    others = sample.users @ functional.embedding(sample.negatives, sample.items).T
    return chosen, others.masked_fill(sample.negatives[None, :] == sample.targets[:, None], _MASKED)


class FullSoftmax(torch.autograd.Function):
    """Cross-entropy over all items that computes its gradient in the forward pass.

    Scores of a chunk of positions are overwritten by their gradient, so that neither [n, items] array is ever kept:
    memory is bounded, and the chunk stays in the cache.
    """

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, excluded: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy; `excluded` (float32[items]) is added to every score."""
        users, items = users.detach().float(), items.detach().float()
        users_grad, items_grad = torch.empty_like(users), torch.zeros_like(items)
        total = users.new_zeros(())
        for start in range(0, len(users), _CHUNK):
            # Softmax p of the chunk's scores, and -log p of what was chosen.
            rows, chosen = users[start : start + _CHUNK], targets[start : start + _CHUNK, None]
            scores = torch.addmm(excluded.float(), rows, items.T)
            shares = torch.softmax(scores, dim=1, out=scores)
            total -= shares.gather(1, chosen).clamp(min=_TINY).log().sum()
            # The gradient by the scores is p - 1 for the chosen item and p for the others.
            shares.scatter_add_(1, chosen, shares.new_full(chosen.shape, -1.0))
            # By the chain rule, since scores = users · items'.
            torch.mm(shares, items, out=users_grad[start : start + _CHUNK])
            items_grad.addmm_(shares.T, rows)
        n = max(len(users), 1)
        ctx.save_for_backward(users_grad / n, items_grad / n)
        return total / n

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Scales the gradient that forward computed."""
        users_grad, items_grad = ctx.saved_tensors
        return users_grad * upstream[0], items_grad * upstream[0], None, None


_OBJECTIVES: dict[ObjectiveName, Callable[[Sample], Tensor]] = {
    "cross-entropy": _cross_entropy,
    "sampled-softmax": _sampled_softmax,
    "gbce": _gbce,
    "mse": _mse,
    "bpr": _bpr,
    "mse+bpr": _mse_and_bpr,
}
