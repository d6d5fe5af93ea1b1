"""Arrays by catalogue row, moved from the rows of one catalogue to those of another that has all of its items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Ids
from recsys.errors import DataError

SHOWN = 5
"""So many items are named where some are missing."""

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class RowMap:
    """Where the rows of a catalogue went. Rows follow item ids, so a new item may stand between old ones."""

    before: NDArray[np.int64]
    """int64[items now]: the row that an item had, -1 for a new one."""
    after: NDArray[np.int64]
    """int64[items before + 1]: the row that an item has now; that after the last, which is no item, stays it."""

    @classmethod
    def of(cls, old: Ids, new: Ids) -> Self:
        """From ascending item ids. Raises DataError where an item of `old` is not in `new`."""
        gone = np.setdiff1d(old, new)
        if len(gone):
            named = ", ".join(map(str, gone[:SHOWN].tolist()))
            raise DataError(
                f"{len(gone)} items of the bundle are not in the tables (ids {named}, …): an index only adds items; "
                "put them back into the raw files, or train again with `python -m offline run`"
            )
        after = np.append(np.searchsorted(new, old), len(new)).astype(np.int64)
        before = np.full(len(new), -1, np.int64)
        before[after[:-1]] = np.arange(len(old))
        return cls(before, after)

    @property
    def new(self) -> NDArray[np.bool_]:
        """bool[items now]: whether the item is new."""
        return self.before < 0

    def moved(self, array: NDArray[Scalar], fill: Any = 0) -> NDArray[Scalar]:
        """[items now, …]: the rows of `array`, [items before, …], at their new positions; `fill` for new items."""
        result = np.empty((len(self.before), *array.shape[1:]), array.dtype)
        result[:] = fill
        result[self.after[:-1]] = array
        return result

    def renumbered(self, rows: NDArray[Scalar]) -> NDArray[Scalar]:
        """The items at `rows` of the old catalogue, by their rows now."""
        result: NDArray[Scalar] = self.after[rows].astype(rows.dtype)
        return result
