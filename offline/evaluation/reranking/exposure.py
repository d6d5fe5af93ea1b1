"""A bonus per item with which lists show more of the catalogue at the smallest loss of relevance.

Choose the first `SHOWN` positions of many users' lists:

    maximise    sum over lists u and shown items i of relevance(u, i)
    subject to  each item i is shown in at least floor · lists of the lists

The bonuses are the Lagrange multipliers (prices) μ of these constraints. For given prices the lists separate: each is
sorted by relevance + μ, as `gateway.pipeline.rerank` does. The dual is minimised by projected subgradient steps,

    μ_i ← clip(μ_i + step · (wanted - shown_i) / wanted, 0, largest),   step ∝ 1 / sqrt(sweep)

and capped at `largest`, because some items would cost more relevance than they are worth. The dual view of exposure is
that of Xu et al., "P-MMF: Provider Max-min Fairness Re-ranking in Recommender System", WWW 2023.

Only recommended items are read, never the items that users took: no target can leak into a bonus.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.pipeline.rerank import relevance
from recsys.domain import Ids

SHOWN = 10
"""Number of first positions of a list that count as shown."""
_FIRST_STEP = 0.5
"""The first step, as a share of the largest bonus."""
_MAX_EXCESS = 3.0
"""An item that is shown too often loses at most this many steps at once; one that is never shown gains one."""


def learn_bonus(lists: Sequence[Ids], items: int, *, largest: float, floor: float, sweeps: int) -> NDArray[np.float32]:
    """float32[items], from 0 to `largest`: the bonus of each row of the catalogue.

    `lists` holds the rows that were recommended to each user, best first. Prices of the later half of the
    sweeps are averaged, since subgradient steps oscillate around the optimum. An item that is in no list gets the
    largest bonus: if it is a candidate after all, no other list shows it.
    """
    prices = np.zeros(items)
    total = np.zeros(items)
    if not lists or not items:
        return total.astype(np.float32)
    rows, values = _padded(lists)
    wanted = floor * len(lists)
    averaged = (sweeps + 1) // 2
    for sweep in range(sweeps):
        # The subgradient: the share of its wanted exposure that each item lacks under the present prices.
        short = (wanted - _shown(rows, values + prices[rows], items)) / wanted
        step = _FIRST_STEP * largest / np.sqrt(sweep + 1)
        prices = np.clip(prices + step * np.clip(short, -_MAX_EXCESS, 1.0), 0.0, largest)
        if sweep >= sweeps - averaged:
            total += prices
    bonus: NDArray[np.float32] = (total / averaged).astype(np.float32)
    return bonus


def _padded(lists: Sequence[Ids]) -> tuple[Ids, NDArray[np.float64]]:
    """Rows and relevance, each [lists, longest]; relevance is -inf after the end of a list."""
    longest = max(SHOWN, *(len(rows) for rows in lists))
    rows = np.zeros((len(lists), longest), np.int64)
    values = np.full((len(lists), longest), -np.inf)
    for row, listed in enumerate(lists):
        rows[row, : len(listed)] = listed
        values[row, : len(listed)] = relevance(len(listed))
    return rows, values


def _shown(rows: Ids, values: NDArray[np.float64], items: int) -> NDArray[np.float64]:
    """float64[items]: in how many lists each item is among the first `SHOWN`."""
    # The first positions in any order: only which items are shown matters here. Padding is not shown.
    first = np.argpartition(-values, SHOWN - 1, axis=1)[:, :SHOWN]
    seen = np.isfinite(np.take_along_axis(values, first, axis=1))
    return np.bincount(np.take_along_axis(rows, first, axis=1)[seen], minlength=items).astype(np.float64)
