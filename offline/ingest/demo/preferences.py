"""Who likes what in the demo world: films and users as vectors of one space, and users that change over the years."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.ingest.demo.calendar import membership
from offline.ingest.demo.catalogue import DemoCatalogue

HIDDEN = 6
"""Dimensions that no attribute shows: only collaborative models can learn them."""
CIRCLES = 12
"""Groups of users with similar taste, which make films co-occur."""
ERAS = (1940.0, 1960.0, 1980.0, 2000.0, 2020.0)
ERA_WIDTH = 12.0
SMALLEST = 1e-12
"""Keeps a catalogue whose films are all alike from dividing by zero."""
TURN = 1.2
"""Largest angle, in radians, by which a user's taste turns over the three years."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """The affinity of every user to every film, float32[users, n], at the `start` and the `end` of the three years.

    `traits`, float32[n, d], are the vectors of the films: unit length, so that their product is a cosine.
    """

    traits: npt.NDArray[np.float32]
    start: npt.NDArray[np.float32]
    end: npt.NDArray[np.float32]


def draw_preferences(rng: np.random.Generator, catalogue: DemoCatalogue, users: int) -> Preferences:
    """Draw the films' hidden traits and the users' tastes; affinities have mean 0 and standard deviation 1 per user."""
    traits = _draw_traits(rng, catalogue)
    shape = traits.shape[1]
    circles = rng.normal(size=(CIRCLES, shape))
    first = circles[rng.integers(CIRCLES, size=users)] + 0.8 * rng.normal(size=(users, shape))
    other = circles[rng.integers(CIRCLES, size=users)] + 0.8 * rng.normal(size=(users, shape))
    angle = rng.uniform(0.0, TURN, size=(users, 1))
    last = np.cos(angle) * first + np.sin(angle) * other
    return Preferences(traits.astype(np.float32), _affinity(first, traits), _affinity(last, traits))


def _draw_traits(rng: np.random.Generator, catalogue: DemoCatalogue) -> npt.NDArray[np.float64]:
    """Return the films' vectors, float64[n, d]: genres, era, and hidden traits that films of one director share."""
    genres = membership(catalogue)
    eras = np.exp(-(((catalogue.year[:, None] - np.array(ERAS)) / ERA_WIDTH) ** 2) / 2.0)
    directors = {name: row for row, name in enumerate(sorted({names[0] for names in catalogue.director}))}
    style = rng.normal(size=(len(directors), HIDDEN))[[directors[names[0]] for names in catalogue.director]]
    own = rng.normal(size=(len(catalogue), HIDDEN))
    blocks = [(genres, 1.0), (eras, 0.7), (style + 0.5 * own, 0.95)]
    scaled = [weight * _unit(block - block.mean(axis=0)) for block, weight in blocks]
    return _unit(np.hstack(scaled))


def _affinity(taste: npt.NDArray[np.float64], traits: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    raw = np.einsum("ud,nd->un", taste, traits)
    centred = raw - raw.mean(axis=1, keepdims=True)
    scaled: npt.NDArray[np.float64] = centred / np.maximum(centred.std(axis=1, keepdims=True), SMALLEST)
    return scaled.astype(np.float32)


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled: npt.NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SMALLEST)
    return scaled
