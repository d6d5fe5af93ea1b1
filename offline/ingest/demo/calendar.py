"""The three years of the demo world: when films arrive, and how their appeal rises and decays from week to week."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offline.ingest.demo.catalogue import GENRES, DemoCatalogue

FIRST_YEAR = 2022
YEARS = 3
START = 1_640_995_200
"""2022-01-01T00:00:00Z in Unix seconds."""
DAYS = 1_096
"""2022 and 2023 have 365 days, 2024 has 366."""
SECONDS_PER_DAY = 86_400
WEEKS = DAYS // 7 + 1

LATE_SHARE = 0.06
"""Share of the older films that join the service only after its start."""
LAUNCH_BOOST = 1.6
LAUNCH_WEEKS = 9.0
CAMPAIGNS = 2
"""Rises per film (an award, an anniversary), each with its own week, height and decay."""
GENRE_DRIFT = 0.07
"""Standard deviation of a genre's weekly step; over three years its appeal wanders by about 0.9."""


def draw_arrivals(rng: np.random.Generator, catalogue: DemoCatalogue) -> npt.NDArray[np.int64]:
    """Return the day (from 0) on which each film joins the service: a film of the three years in its own year.

    The oldest film is there from day 0, so that there is always one to choose.
    """
    n = len(catalogue)
    within_year = rng.integers(10, 300, size=n)
    late = rng.random(n) < LATE_SHARE
    late_day = rng.integers(90, DAYS - 90, size=n)
    released = (catalogue.year - FIRST_YEAR) * 365 + within_year
    days = np.where(catalogue.year >= FIRST_YEAR, released, np.where(late, late_day, 0)).astype(np.int64)
    days[catalogue.year.argmin()] = 0
    return days


def draw_appeal(
    rng: np.random.Generator, catalogue: DemoCatalogue, arrivals: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Return the log-appeal of every film in every week, float32[WEEKS, n]; -inf until the week after its arrival.

    It is the sum of a constant per film (normal, newer films higher), the drift of its genres (a random walk), a launch
    that decays, and campaigns that rise within weeks and decay within months.
    """
    n = len(catalogue)
    week = np.arange(WEEKS, dtype=np.float64)[:, None]
    appeal = rng.normal(0.0, 1.15, size=n) + (catalogue.year - 1990) / 60.0 + np.zeros((WEEKS, n))
    steps = rng.normal(0.0, GENRE_DRIFT, size=(WEEKS, len(GENRES)))
    appeal += np.einsum("wg,ng->wn", np.cumsum(steps, axis=0), membership(catalogue))
    since = week - arrivals / 7.0
    appeal += np.where(arrivals > 0, LAUNCH_BOOST * np.exp(-np.maximum(since, 0.0) / LAUNCH_WEEKS), 0.0)
    for _ in range(CAMPAIGNS):
        height = rng.exponential(0.6, size=n)
        distance = week - rng.uniform(0.0, WEEKS, size=n)
        decay = rng.uniform(5.0, 30.0, size=n)
        appeal += height * np.exp(-np.maximum(distance, 0.0) / decay + np.minimum(distance, 0.0) / 2.0)
    appeal[(arrivals > 0) & (arrivals // 7 >= week)] = -np.inf
    return appeal.astype(np.float32)


def membership(catalogue: DemoCatalogue) -> npt.NDArray[np.float64]:
    """Return each film's share in each genre, float64[n, len(GENRES)]; rows sum to 1."""
    shares = np.zeros((len(catalogue), len(GENRES)))
    for row, genres in enumerate(catalogue.genres):
        shares[row, [GENRES.index(genre) for genre in genres]] = 1.0 / len(genres)
    return shares
