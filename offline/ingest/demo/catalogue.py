"""The films of the `demo` data set: facts only (title, year, genres, director, cast), shipped as package data."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from recsys.errors import DataMalformed

GENRES: tuple[str, ...] = (
    "Action",
    "Adventure",
    "Animation",
    "Children",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
COLUMNS = ("item_id", "title", "year", "genres", "director", "cast")


@dataclass(frozen=True, slots=True)
class DemoCatalogue:
    """n films in the order of `item_id`, which runs from 1 to n; every column has length n.

    `title` carries no year; `genres` are names of `GENRES`; `director` and `cast` hold at least one name per film.
    """

    item_id: npt.NDArray[np.int64]
    title: tuple[str, ...]
    year: npt.NDArray[np.int64]
    genres: tuple[tuple[str, ...], ...]
    director: tuple[tuple[str, ...], ...]
    cast: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        """The number of films."""
        return len(self.title)


def read_catalogue() -> DemoCatalogue:
    """Return the shipped catalogue."""
    path = resources.files("offline.ingest.demo") / "catalogue.csv"
    with path.open(encoding="utf-8") as lines:
        return parse_catalogue(lines)


def parse_catalogue(lines: Iterable[str]) -> DemoCatalogue:
    """Parse csv lines with the header `COLUMNS`; several genres, directors and names are separated by `|`.

    Raises:
        DataMalformed: the header or the number of fields of a line is another, ids do not run from 1 to n, a year is
            not a number, or a genre is not one of `GENRES`.
    """
    reader = csv.reader(lines)
    header = tuple(next(reader, ()))
    if header != COLUMNS:
        raise DataMalformed(f"catalogue: the header is {header}, expected {COLUMNS}; reinstall the package")
    rows = [_checked(row, expected_id) for expected_id, row in enumerate(reader, start=1)]
    return DemoCatalogue(
        item_id=np.arange(1, len(rows) + 1, dtype=np.int64),
        title=tuple(row[1] for row in rows),
        year=np.array([int(row[2]) for row in rows], dtype=np.int64),
        genres=tuple(tuple(row[3].split("|")) for row in rows),
        director=tuple(tuple(row[4].split("|")) for row in rows),
        cast=tuple(tuple(row[5].split("|")) for row in rows),
    )


def _checked(row: list[str], expected_id: int) -> list[str]:
    """Return `row` when its fields, id, year and genres are sound, else raise `DataMalformed`."""
    where = f"catalogue: film {expected_id}"
    if len(row) != len(COLUMNS):
        raise DataMalformed(f"{where} has {len(row)} fields, expected {len(COLUMNS)}; quote a title that has a comma")
    if row[0] != str(expected_id):
        raise DataMalformed(f"{where} has item_id {row[0]!r}, expected {expected_id}; number the films from 1 to n")
    if not row[2].isdecimal():
        raise DataMalformed(f"{where} has year {row[2]!r}, expected a number; write it with four digits")
    unknown = sorted(set(row[3].split("|")) - set(GENRES))
    if unknown:
        raise DataMalformed(f"{where} has unknown genres {unknown}, expected some of {GENRES}; use those names")
    return row
