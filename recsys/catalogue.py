"""The items of one bundle: dense rows in order of item id, and the attributes that filters need."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.allowed import Allowed, CompiledFilter
from recsys.arrays import Strings, open_array, string_files
from recsys.cache import ByteLimitedCache
from recsys.domain import Ids, ItemFilter, Mask
from recsys.errors import BundleMismatch, InvalidRequest
from recsys.ordering import distinct
from recsys.people import People

NO_YEAR = -32_768
FILTER_BYTES = 32 << 20
"""Most memory that the compiled filters of one catalogue take."""
FILES = ("catalogue/item_ids.npy", "catalogue/years.npy", "catalogue/genres.npy", "catalogue/genre_names.json")
MEASURE_FILES = {"runtimes": "catalogue/runtimes.npy", "budgets": "catalogue/budgets.npy"}
"""Files of optional columns, by field of `Catalogue`; absent if nothing is known."""
KEYS, TITLES = "catalogue/keys", "catalogue/titles"
TEXT_FILES = (*string_files(KEYS), *string_files(TITLES))
MAX_IDS_PER_ITEM = 4
"""From the first id to the last; up to here a table finds rows, with 16 bytes an item at most."""


@dataclass(frozen=True)
class Catalogue:
    """Items of a bundle. Row i of every array is one item; rows are sorted by item id."""

    item_ids: Ids
    years: NDArray[np.int16]
    """int16[n]; `NO_YEAR` if the year is unknown."""
    genres: Mask
    """bool[n, genres]."""
    genre_names: tuple[str, ...]
    people: People | None = None
    """Directors, cast and writers; None if the data set names nobody."""
    runtimes: NDArray[np.float32] | None = None
    """float32[n]: minutes, NaN if unknown; None if unknown for all items."""
    budgets: NDArray[np.float32] | None = None
    """float32[n]: in one currency, NaN if unknown; None if unknown for all items."""

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def genre_columns(self) -> dict[str, int]:
        """Column of `genres` by genre name."""
        return {name: column for column, name in enumerate(self.genre_names)}

    def rows(self, item_ids: Ids) -> NDArray[np.int64]:
        """int64[len(item_ids)]: the row of each id, -1 if the id is unknown."""
        if not len(self.item_ids):
            return np.full(len(item_ids), -1, np.int64)
        if self._row_table is None:
            rows = np.searchsorted(self.item_ids, item_ids)
            rows[rows == len(self.item_ids)] = 0
        else:
            # An id outside the table, even one whose distance overflows, gets a row that is not its own.
            rows = self._row_table.take(item_ids - self.item_ids[0], mode="clip").astype(np.int64)
        rows[self.item_ids.take(rows) != item_ids] = -1
        return rows

    @cached_property
    def _row_table(self) -> NDArray[np.int32] | None:
        """The row of each id from the first to the last, 0 for ids of no item; None where the ids are too far apart.

        Looking up hundreds of ids takes a tenth of the time of a binary search.
        """
        ids = self.item_ids
        span = int(ids[-1]) - int(ids[0]) + 1
        if span > MAX_IDS_PER_ITEM * len(ids):
            return None
        table = np.zeros(span, np.int32)
        table[ids - ids[0]] = np.arange(len(ids), dtype=np.int32)
        return table

    def known_rows(self, item_ids: Ids) -> NDArray[np.int64]:
        """The rows of the known ids, in the order given."""
        rows = self.rows(item_ids)
        return rows[rows >= 0]

    def check_genres(self, names: tuple[str, ...], field: str) -> list[int]:
        """Columns of the genres `names`; raises InvalidRequest, which lists the known ones."""
        unknown = [name for name in names if name not in self.genre_columns]
        if unknown:
            known = ", ".join(self.genre_names[:40])
            raise InvalidRequest(f"{field}: unknown genre {unknown[0]!r}; this bundle knows: {known or 'none'}")
        return [self.genre_columns[name] for name in names]

    def allowed(self, item_filter: ItemFilter, exclude_item_ids: Ids) -> Allowed:
        """The rows that pass the filter and are not excluded. Raises InvalidRequest for an unknown genre."""
        return Allowed(len(self), self.compiled(item_filter), distinct(self.known_rows(exclude_item_ids)))

    def compiled(self, item_filter: ItemFilter) -> CompiledFilter | None:
        """The filter tested on all rows: once, as long as its result is kept. None for a filter that allows all.

        Raises InvalidRequest for an unknown genre.
        """
        if not item_filter:
            return None
        return self._filters.get(item_filter, lambda: CompiledFilter.of(self.passes(item_filter, slice(None))))

    @cached_property
    def _filters(self) -> ByteLimitedCache[ItemFilter, CompiledFilter]:
        return ByteLimitedCache(FILTER_BYTES, lambda compiled: compiled.nbytes)

    def passes(self, item_filter: ItemFilter, rows: Ids | slice) -> Mask:
        """bool[rows]: whether the items at `rows` pass the filter. Raises InvalidRequest for an unknown genre."""
        genres, years = self.genres[rows], self.years[rows]
        passed = np.ones(len(years), np.bool_)
        if item_filter.genres_any:
            passed &= genres[:, self.check_genres(item_filter.genres_any, "filter.genres_any")].any(axis=1)
        if item_filter.genres_none:
            passed &= ~genres[:, self.check_genres(item_filter.genres_none, "filter.genres_none")].any(axis=1)
        if item_filter.min_year is not None or item_filter.max_year is not None:
            passed &= years != NO_YEAR
        if item_filter.min_year is not None:
            passed &= years >= item_filter.min_year
        if item_filter.max_year is not None:
            passed &= years <= item_filter.max_year
        return passed

    def save(self, folder: Path) -> None:
        """Writes the four `FILES` below `folder`, and those of people and measures if there are any."""
        (folder / "catalogue").mkdir(parents=True, exist_ok=True)
        np.save(folder / FILES[0], self.item_ids)
        np.save(folder / FILES[1], self.years)
        np.save(folder / FILES[2], self.genres)
        (folder / FILES[3]).write_text(json.dumps(self.genre_names, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.people is not None:
            self.people.save(folder)
        for field, file in MEASURE_FILES.items():
            if getattr(self, field) is not None:
                np.save(folder / file, getattr(self, field))

    @classmethod
    def load(cls, folder: Path) -> Catalogue:
        """Maps what `save` wrote; the bundle has verified the files.

        Raises BundleMismatch if people or measures do not fit the items.
        """
        names = json.loads((folder / FILES[3]).read_text(encoding="utf-8"))
        arrays = [open_array(folder / name) for name in FILES[:3]]
        n = len(arrays[0])
        people, measures = (
            People.load(folder, n),
            {name: _measure(folder / MEASURE_FILES[name], n) for name in MEASURE_FILES},
        )
        return cls(arrays[0], arrays[1], arrays[2], tuple(names), people, **measures)


def _measure(path: Path, n: int) -> NDArray[np.float32] | None:
    if not path.is_file():
        return None
    values: NDArray[np.float32] = open_array(path)
    if values.shape != (n,):
        raise BundleMismatch(f"{path}: {list(values.shape)} values, expected one for each of {n} items; publish again")
    return values


@dataclass(frozen=True, slots=True)
class ItemTexts:
    """Keys and titles by row of the catalogue; only the gateway loads them."""

    keys: Strings
    titles: Strings

    @classmethod
    def of(cls, keys: Iterable[str], titles: Iterable[str]) -> Self:
        """Packs two parallel lists."""
        return cls(Strings.of(keys), Strings.of(titles))

    def save(self, folder: Path) -> None:
        """Writes `TEXT_FILES` below `folder`."""
        (folder / KEYS).parent.mkdir(parents=True, exist_ok=True)
        self.keys.save(folder / KEYS)
        self.titles.save(folder / TITLES)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Maps what `save` wrote."""
        return cls(Strings.open(folder / KEYS), Strings.open(folder / TITLES))
