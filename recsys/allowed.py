"""Which items a query may get, tested where it matters: work per request does not grow with the catalogue.

An attribute filter is compiled once per catalogue and kept; what one user has seen is a few hundred rows. Both are
tested on the rows that a search has found, so that no request makes a mask of the whole catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.domain import NO_IDS, Mask
from recsys.ordering import are_among

RowNumbers = NDArray[np.int64]

_LISTED = 8
"""The rows of a filter are listed where at most this part of the catalogue passes: half the size of the mask."""


@dataclass(frozen=True, eq=False)
class CompiledFilter:
    """An attribute filter, tested on every row of a catalogue. Shared by requests: nobody may write to it."""

    mask: Mask
    """bool[items]: whether the row passes."""
    count: int
    """Rows that pass."""
    listed: NDArray[np.int32] | None
    """int32[count], ascending: the rows that pass; None where they are too many to be listed."""

    @classmethod
    def of(cls, mask: Mask) -> Self:
        """From bool[items]."""
        count = int(np.count_nonzero(mask))
        listed = np.flatnonzero(mask).astype(np.int32) if count * _LISTED <= len(mask) else None
        mask.flags.writeable = False
        return cls(mask, count, listed)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.mask.nbytes + (0 if self.listed is None else self.listed.nbytes)

    def rows(self) -> RowNumbers:
        """int64[count], ascending: the rows that pass. Takes as long as the catalogue is large where not listed."""
        return np.flatnonzero(self.mask) if self.listed is None else self.listed.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Allowed:
    """The rows of a catalogue that one query may get: those that pass its filter, but for the excluded ones."""

    items: int
    """Rows of the catalogue."""
    passing: CompiledFilter | None = None
    """None: every row passes."""
    excluded: RowNumbers = field(default_factory=lambda: NO_IDS)
    """int64[m], ascending, each once."""

    @cached_property
    def count(self) -> int:
        """The number of allowed rows."""
        if self.passing is None:
            return self.items - len(self.excluded)
        return self.passing.count - int(np.count_nonzero(self.passing.mask[self.excluded]))

    @property
    def everything(self) -> bool:
        """Whether all rows are allowed."""
        return self.passing is None and not len(self.excluded)

    def passes(self, rows: NDArray[np.integer]) -> Mask:
        """bool[len(rows)]: whether each of `rows` is allowed. Costs a few steps per row, whatever the catalogue."""
        passed = np.ones(len(rows), np.bool_) if self.passing is None else self.passing.mask[rows]
        if len(self.excluded):
            passed &= ~are_among(rows.astype(np.int64, copy=False), self.excluded)
        return passed

    def among(self, rows: RowNumbers) -> RowNumbers:
        """Those of `rows`, which are ascending, that are allowed; quicker than `passes`."""
        return self._without(rows if self.passing is None else rows[self.passing.mask[rows]])

    def _without(self, rows: RowNumbers) -> RowNumbers:
        """`rows`, ascending, but for the excluded ones, which are looked up among them."""
        if not len(rows) or not len(self.excluded):
            return rows
        positions = rows.searchsorted(self.excluded)
        kept = np.ones(len(rows), np.bool_)
        kept[positions[rows.take(positions, mode="clip") == self.excluded]] = False
        return rows[kept]

    def rows(self) -> RowNumbers:
        """int64[count], ascending: all allowed rows. Only for a search that reads all of them anyway."""
        return self._without(np.arange(self.items) if self.passing is None else self.passing.rows())

    def forbid(self, values: NDArray[np.floating], fill: float) -> None:
        """Writes `fill` into `values`, [items], where a row is not allowed."""
        if self.passing is not None:
            values[~self.passing.mask] = fill
        values[self.excluded] = fill


def first_allowed(rows: NDArray[np.integer], allowed: Allowed, count: int) -> RowNumbers:
    """int64[at most count], ascending: the positions in `rows` of its first `count` allowed ones.

    `rows` are read from the head until enough are found.
    """
    found: list[RowNumbers] = []
    # Without a filter the first part suffices: no more rows can be missing from it than are excluded.
    start, size, missing = 0, count + len(allowed.excluded), count
    while missing > 0 and start < len(rows):
        part = np.flatnonzero(allowed.passes(rows[start : start + size]))[:missing] + start
        found.append(part)
        start, size, missing = start + size, 2 * size, missing - len(part)
    return np.concatenate(found) if found else NO_IDS


class RowOrder:
    """Rows of a catalogue in a fixed order, of which requests take the first ones that they may get."""

    def __init__(self, rows: RowNumbers, items: int) -> None:
        """`rows`: distinct rows of a catalogue of `items`, best first."""
        self.rows: NDArray[np.int32] = rows.astype(np.int32)
        # The position of a row that is not in the order is behind the last.
        self._positions = np.full(items, len(rows), np.int32)
        self._positions[rows] = np.arange(len(rows), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, allowed: Allowed, count: int) -> RowNumbers:
        """int64[at most count], ascending: the positions of the first `count` allowed rows."""
        passing = allowed.passing
        # So many rows are read until `count` of them pass, if those that pass are spread evenly.
        expected = 0.0 if passing is None else len(self) * (count + len(allowed.excluded)) / max(passing.count, 1)
        # Few rows pass: sorting their positions is less work than reading the order until they have come.
        if passing is not None and passing.count < expected:
            positions = np.sort(self._positions[allowed.rows()])[:count].astype(np.int64)
            return positions[: int(np.searchsorted(positions, len(self)))]
        return first_allowed(self.rows, allowed, count)
