"""The items of a generated world: made-up titles, genres, years, and when each is there and asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.ingest.demo.catalogue import GENRES

DIMENSIONS = 16
"""Of the space in which items, topics and users' tastes are vectors of unit length."""
MOST_GENRES = 3
GENRE_LEAD = 0.12
"""An item has its nearest genre, and further ones whose cosine is at most this much smaller."""

START = 1_262_304_000
"""2010-01-01T00:00:00Z in Unix seconds."""
DAYS = 3_652
"""Ten years."""
SECONDS_PER_DAY = 86_400
FIRST_YEAR, OLDEST_YEAR = 2010, 1930

NEW_SHARE = 0.4
"""Share of the items that arrive within the ten years."""
TAIL, TAIL_BEGINS = 0.5, 300
"""The standard deviation of the logarithm of an item's weight grows by TAIL with every e-fold of the catalogue beyond
TAIL_BEGINS: a larger catalogue has more of what hardly anybody asks for."""

_ADJECTIVES = ("Silent", "Crimson", "Hidden", "Last", "Golden", "Broken", "Distant", "Frozen", "Hollow", "Lonely")
_NOUNS = ("Harbour", "Garden", "Signal", "River", "Letter", "Mirror", "Winter", "Parade", "Station", "Voyage", "Summer")


@dataclass(frozen=True, slots=True)
class SyntheticItems:
    """n items; the id of row i is i + 1."""

    vectors: npt.NDArray[np.float32]
    """float32[n, DIMENSIONS], of unit length."""
    weights: npt.NDArray[np.float64]
    """float64[n]: how much an item is asked for at its peak."""
    quality: npt.NDArray[np.float32]
    """float32[n]: by how much its ratings are above the mean."""
    arrivals: npt.NDArray[np.float32]
    """float32[n]: day, from 0; no rating is earlier."""
    peaks: npt.NDArray[np.float32]
    """float32[n]: day at which it is asked for most."""
    decays: npt.NDArray[np.float32]
    """float32[n]: days in which the demand beyond `floors` falls to 1/e."""
    floors: npt.NDArray[np.float32]
    """float32[n]: what is always left of the demand at the peak."""
    years: npt.NDArray[np.int64]
    genres: npt.NDArray[np.bool_]
    """bool[n, len(GENRES)]."""

    def __len__(self) -> int:
        """The number of items."""
        return len(self.weights)

    def demand(self, rows: npt.NDArray[np.int64], days: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Demand for items on days, as a share of that at the peak: 0 before they arrive."""
        away = np.abs(days - self.peaks[rows]) / self.decays[rows]
        share = self.floors[rows] + (1 - self.floors[rows]) * np.exp(-away)
        return np.where(days >= self.arrivals[rows], share, np.float32(0))

    def titles(self) -> list[str]:
        """Titles with a number, which makes each unique, and the year, as MovieLens has it."""
        adjectives, nouns = len(_ADJECTIVES), len(_NOUNS)
        return [
            f"The {_ADJECTIVES[row % adjectives]} {_NOUNS[row // adjectives % nouns]} {row + 1} ({year})"
            for row, year in enumerate(self.years.tolist())
        ]

    def genre_names(self) -> list[str]:
        """Names separated by `|`."""
        names = np.asarray(GENRES)
        return ["|".join(names[mask]) for mask in self.genres]


def draw_items(rng: np.random.Generator, n: int) -> SyntheticItems:
    """Draws a catalogue of `n` items; the first is there from day 0 and always asked for, so nobody lacks a choice."""
    centres = unit(rng.normal(size=(len(GENRES), DIMENSIONS)))
    vectors = unit(centres[rng.integers(len(GENRES), size=n)] + 0.28 * rng.normal(size=(n, DIMENSIONS)))
    new = rng.random(n) < NEW_SHARE
    new[0] = False
    arrivals = np.where(new, rng.uniform(1, DAYS - 30, size=n), 0)
    peaks = np.where(new, arrivals, rng.uniform(-DAYS / 2, DAYS, size=n))
    older = FIRST_YEAR - 1 - np.floor((FIRST_YEAR - OLDEST_YEAR) * rng.beta(0.7, 2.0, size=n))
    floors = rng.beta(1.4, 1.4, size=n)
    floors[0] = 1.0
    return SyntheticItems(
        vectors=vectors.astype(np.float32),
        weights=np.exp(TAIL * np.log(n / TAIL_BEGINS) * rng.normal(size=n)),
        quality=rng.normal(0.0, 0.4, size=n).astype(np.float32),
        arrivals=arrivals.astype(np.float32),
        peaks=peaks.astype(np.float32),
        decays=rng.uniform(60, 500, size=n).astype(np.float32),
        floors=floors.astype(np.float32),
        years=np.where(new, FIRST_YEAR + arrivals // 365.25, older).astype(np.int64),
        genres=_genres(vectors @ centres.T),
    )


def _genres(cosines: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Each item's nearest genre, and those about as near, at most `MOST_GENRES`."""
    ordered = np.sort(cosines, axis=1)
    least = np.maximum(ordered[:, -1] - GENRE_LEAD, ordered[:, -MOST_GENRES])
    return cosines >= least[:, None]


def unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The same rows with length 1."""
    scaled: npt.NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled
