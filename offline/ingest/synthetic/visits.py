"""When users come: many only once, others for years; several ratings minutes apart in each visit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.ingest.synthetic.catalogue import DAYS, SECONDS_PER_DAY, START

ONE_DAY_SHARE = 0.3
"""Share of the users whose ratings are all within their first day."""
NEW_VISIT = 1 / 15
"""Chance that the next rating opens a new visit."""
LATEST_START = DAYS - 10
MEAN_GAP_SECONDS = 25.0


@dataclass(frozen=True, slots=True)
class UserVisits:
    """The ratings of some users before an item is chosen, by user and in the order of time."""

    users: npt.NDArray[np.int64]
    """int64[ratings]: row of the user, ascending."""
    timestamps: npt.NDArray[np.int64]
    """int64[ratings], Unix seconds."""
    opens: npt.NDArray[np.bool_]
    """bool[ratings]: whether a visit begins here."""

    @property
    def days(self) -> npt.NDArray[np.float32]:
        """float32[ratings]: days since the start."""
        return ((self.timestamps - START) / SECONDS_PER_DAY).astype(np.float32)


def draw_visits(rng: np.random.Generator, counts: npt.NDArray[np.int64]) -> UserVisits:
    """Draws the times of `counts[u]` ratings of each user u, each at least one."""
    n, users = int(counts.sum()), np.repeat(np.arange(len(counts)), counts)
    first = LATEST_START * rng.beta(1.0, 1.2, size=len(counts))
    stay = np.where(rng.random(len(counts)) < ONE_DAY_SHARE, 1.0, rng.random(len(counts)) * (DAYS - 2 - first))
    opens = rng.random(n) < NEW_VISIT
    opens[np.cumsum(counts) - counts] = True
    # A visit's time: the first of a user at the beginning of the stay, others anywhere within it.
    of_visit = users[opens]
    within = rng.random(len(of_visit)) * np.concatenate([[False], of_visit[1:] == of_visit[:-1]])
    opening = START + np.rint((first[of_visit] + within * np.maximum(stay[of_visit], 1.0)) * SECONDS_PER_DAY)
    # Time since the visit began, from the running sum of gaps.
    visit, elapsed = np.cumsum(opens) - 1, np.cumsum(1 + np.rint(rng.exponential(MEAN_GAP_SECONDS, size=n)))
    timestamps = (opening[visit] + np.minimum(elapsed - elapsed[opens][visit], SECONDS_PER_DAY / 2)).astype(np.int64)
    # Visits of a user may overlap: by time, a visit opens where its number differs from that of the rating before.
    order = np.lexsort((timestamps, users))
    ordered = visit[order]
    return UserVisits(users, timestamps[order], np.concatenate([[True], ordered[1:] != ordered[:-1]]))
