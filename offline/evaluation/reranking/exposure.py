"""A bonus per item with which lists show more of the catalogue at the least loss of relevance.

Over the lists of many users, take the first places so that their relevance is largest while every item stands among
them in at least a share `floor` of the lists. The bonuses are the prices of these constraints, found by subgradient
ascent on the dual and capped, for some items would cost more than they are worth. With the prices known each list is
best made alone: add the bonus and sort, as `gateway.pipeline.rerank` does. The dual view of fair exposure is that of Xu
et al., "P-MMF: Provider Max-min Fairness Re-ranking in Recommender System", WWW 2023.

Only what was recommended is looked at, never what was taken: nothing here can leak a target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.pipeline.rerank import relevance
from recsys.domain import Ids

PLACES = 10
"""Places of a list that count as shown."""
_FIRST_STEP = 0.5
_MAX_EXCESS = 3.0


def learn_bonus(lists: Sequence[Ids], items: int, *, largest: float, floor: float, sweeps: int) -> NDArray[np.float32]:
    """float32[items], from 0 to `largest`: the bonus of each row of the catalogue.

    `lists` holds the rows that were recommended to each user, best first. Prices rise by up to half of `largest`, less
    and less, while an item is shown too rarely, and fall while it is shown too often; the later half is averaged. An
    item that is in no list has the largest bonus: where it is a candidate after all, nobody else is shown it.
    """
    prices = np.zeros(items)
    total = np.zeros(items)
    if not lists or not items:
        return total.astype(np.float32)
    rows, values = _padded(lists)
    wanted = floor * len(lists)
    averaged = (sweeps + 1) // 2
    for sweep in range(sweeps):
        short = (wanted - _shown(rows, values + prices[rows], items)) / wanted
        step = _FIRST_STEP * largest / np.sqrt(sweep + 1)
        prices = np.clip(prices + step * np.clip(short, -_MAX_EXCESS, 1.0), 0.0, largest)
        if sweep >= sweeps - averaged:
            total += prices
    bonus: NDArray[np.float32] = (total / averaged).astype(np.float32)
    return bonus


def _padded(lists: Sequence[Ids]) -> tuple[Ids, NDArray[np.float64]]:
    """Rows and relevance, each [lists, longest]; relevance is -inf where a list has ended."""
    longest = max(PLACES, *(len(rows) for rows in lists))
    rows = np.zeros((len(lists), longest), np.int64)
    values = np.full((len(lists), longest), -np.inf)
    for place, listed in enumerate(lists):
        rows[place, : len(listed)] = listed
        values[place, : len(listed)] = relevance(len(listed))
    return rows, values


def _shown(rows: Ids, values: NDArray[np.float64], items: int) -> NDArray[np.float64]:
    """float64[items]: in how many lists each item is among the first `PLACES`."""
    first = np.argpartition(-values, PLACES - 1, axis=1)[:, :PLACES]
    seen = np.isfinite(np.take_along_axis(values, first, axis=1))
    return np.bincount(np.take_along_axis(rows, first, axis=1)[seen], minlength=items).astype(np.float64)
