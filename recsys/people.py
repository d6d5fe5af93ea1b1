"""Directors, cast and writers of the items of a bundle, as ragged arrays; names stay offline."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.arrays import open_array
from recsys.domain import Ids
from recsys.errors import BundleMismatch

FILES = (
    "catalogue/people_indptr.npy",
    "catalogue/people_rows.npy",
    "catalogue/people_roles.npy",
    "catalogue/people_ids.npy",
)


class Role(IntEnum):
    """What a person did for an item; the numbers are those of `item_people.parquet`."""

    DIRECTOR = 1
    CAST = 2
    WRITER = 3


@dataclass(frozen=True, eq=False)
class People:
    """The credits of a catalogue's items: those of item row i are `indptr[i]:indptr[i + 1]`.

    Within an item, directors come first, then the cast, then writers, each in billing order.
    """

    indptr: Ids
    """int64[items + 1]."""
    person_rows: NDArray[np.int32]
    """int32[credits]: rows of `person_ids`."""
    roles: NDArray[np.int8]
    """int8[credits]: numbers of `Role`."""
    person_ids: Ids
    """int64[people], ascending. Rows belong to this catalogue only; an id means the same person in every bundle."""

    def __len__(self) -> int:
        """The number of people."""
        return len(self.person_ids)

    @property
    def item_rows(self) -> Ids:
        """int64[credits]: the item row of each credit."""
        return np.repeat(np.arange(len(self.indptr) - 1, dtype=np.int64), np.diff(self.indptr))

    def only(self, *roles: Role) -> People:
        """The credits of these roles; items and people keep their rows."""
        return self._where(np.isin(self.roles, [int(role) for role in roles]))

    def first(self, n: int) -> People:
        """At most the first `n` credits of each role of an item; items and people keep their rows."""
        groups = self.item_rows * len(Role) + self.roles - 1
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        ranks = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
        return self._where(ranks < n)

    def take(self, items: NDArray[np.bool_] | Ids) -> People | None:
        """The credits of `items` (a mask or rows, in their order), with rows for the people among them only.

        None if there are none, so that nothing remains of items that are not chosen.
        """
        rows = np.flatnonzero(items) if items.dtype == np.bool_ else items
        counts = (self.indptr[1:] - self.indptr[:-1])[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if not indptr[-1]:
            return None
        chosen = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        kept, person_rows = np.unique(self.person_rows[chosen], return_inverse=True)
        return People(indptr, person_rows.astype(np.int32), self.roles[chosen], self.person_ids[kept])

    def _where(self, kept: NDArray[np.bool_]) -> People:
        before = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        return People(before[self.indptr], self.person_rows[kept], self.roles[kept], self.person_ids)

    def save(self, folder: Path) -> None:
        """Writes the four `FILES` below `folder`."""
        (folder / "catalogue").mkdir(parents=True, exist_ok=True)
        arrays: tuple[NDArray[Any], ...] = (self.indptr, self.person_rows, self.roles, self.person_ids)
        for name, array in zip(FILES, arrays, strict=True):
            np.save(folder / name, array)

    @classmethod
    def load(cls, folder: Path, n_items: int) -> People | None:
        """Maps what `save` wrote; None if nothing was written. Raises BundleMismatch if it does not fit `n_items`."""
        if not (folder / FILES[0]).is_file():
            return None
        people = cls(*(open_array(folder / name) for name in FILES))
        people.check(n_items, str(folder / FILES[0]))
        return people

    def check(self, n_items: int, where: str) -> None:
        """Raises BundleMismatch unless the arrays fit each other and `n_items` items."""
        found = (len(self.person_rows), len(self.roles))
        if len(self.indptr) != n_items + 1 or found != (int(self.indptr[-1]),) * 2:
            raise BundleMismatch(
                f"{where}: credits of {len(self.indptr) - 1} items, {found[0]} people rows and {found[1]} roles; "
                f"expected {n_items} items and {int(self.indptr[-1])} of each; publish again"
            )
        if found[0] and not (self.person_rows.min() >= 0 and self.person_rows.max() < len(self)):
            raise BundleMismatch(
                f"{where}: person rows run from {self.person_rows.min()} to {self.person_rows.max()}, "
                f"expected 0 to {len(self) - 1}; publish again"
            )
