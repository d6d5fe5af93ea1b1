"""The synthetic users of the `demo` data set. Figures measured on it are never quoted as quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.ingest.demo.calendar import DAYS, FIRST_YEAR, SECONDS_PER_DAY, START, draw_appeal, draw_arrivals
from offline.ingest.demo.catalogue import DemoCatalogue
from offline.ingest.demo.preferences import Preferences, draw_preferences
from offline.ingest.demo.visits import Visits, draw_visits
from recsys.errors import InvalidRequest

TASTE_WEIGHT = np.float32(1.8)
MOOD_WEIGHT = np.float32(2.6)
"""Pull of the films chosen just before in the same visit: what a sequence model can learn."""
MOOD_MEMORY = np.float32(0.6)
MIN_WAIT = np.finfo(np.float32).tiny
"""An exponential variable in single precision can be exactly 0, which has no logarithm."""
MAX_SHARE = 0.35
"""No user sees more than this share of the films that are there from the start."""


@dataclass(frozen=True, slots=True)
class DemoWorld:
    """Ratings in the order of (timestamp, user_id, item_id), one entry per column and rating, and their films.

    `user_id` runs from 1 to the number of users, `item_id` is the catalogue's, `timestamp` is in Unix seconds,
    `value` lies between 0.5 and 5 in half steps. No user rates a film twice, or before the film has arrived.
    """

    catalogue: DemoCatalogue
    user_id: npt.NDArray[np.int64]
    item_id: npt.NDArray[np.int64]
    timestamp: npt.NDArray[np.int64]
    value: npt.NDArray[np.float32]


def generate(
    catalogue: DemoCatalogue, *, seed: int = 20220101, users: int = 2_400, events_per_user: float = 80.0
) -> DemoWorld:
    """Generate the users' ratings of the three years from 2022-01-01 to 2024-12-31 (UTC).

    Equal arguments give equal output, in any process. Memory grows with `users` times the size of the catalogue.
    `events_per_user` is the mean before busy users are held to `MAX_SHARE` of the films.

    Raises:
        InvalidRequest: `users` or `events_per_user` is below 1, or the catalogue has no film from before the start.
    """
    _check(catalogue, users=users, events_per_user=events_per_user)
    films, timing, people, scores, names = np.random.default_rng(seed).spawn(5)
    arrivals = draw_arrivals(films, catalogue)
    appeal = draw_appeal(films, catalogue, arrivals)
    taste = draw_preferences(people, catalogue, users)
    most = min(max(1, int(MAX_SHARE * np.count_nonzero(arrivals == 0))), DAYS // 2)
    visits = draw_visits(timing, users, events_per_user=events_per_user, most=most)
    chosen, affinity = _choose(films, visits, taste, appeal)
    value = _rate(scores, visits, chosen, affinity)
    user_id = np.repeat(names.permutation(users) + 1, visits.counts).astype(np.int64)
    item_id = catalogue.item_id[chosen]
    order = np.lexsort((item_id, user_id, visits.timestamp))
    return DemoWorld(catalogue, user_id[order], item_id[order], visits.timestamp[order], value[order])


def _check(catalogue: DemoCatalogue, *, users: int, events_per_user: float) -> None:
    if users < 1:
        raise InvalidRequest(f"users is {users}, expected at least 1; ask for one user or more")
    if not events_per_user >= 1:
        raise InvalidRequest(f"events_per_user is {events_per_user}, expected at least 1; ask for one event or more")
    if not np.any(catalogue.year < FIRST_YEAR):
        raise InvalidRequest(f"the catalogue has no film from before {FIRST_YEAR}, the first year; add an older film")


def _choose(
    rng: np.random.Generator, visits: Visits, taste: Preferences, appeal: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the catalogue row of every event's film, and the user's affinity to it, in the order of `visits`.

    Event e of all users is drawn at once, from a softmax over the films (the Gumbel-max trick: the largest of logit
    minus log of an exponential variable). Users stand busiest first, so those with an event e are the first ones.
    How many numbers are drawn does not depend on what is chosen.
    """
    chosen = np.empty(visits.timestamp.size, dtype=np.int64)
    affinity = np.empty(visits.timestamp.size, dtype=np.float32)
    unseen = np.zeros_like(taste.start)
    mood = np.zeros((visits.counts.size, taste.traits.shape[1]), dtype=np.float32)
    for step in range(int(visits.counts.max())):
        active = int(np.count_nonzero(visits.counts > step))
        events = visits.offsets[:active] + step
        day = (visits.timestamp[events] - START) // SECONDS_PER_DAY
        progress = (day / DAYS).astype(np.float32)[:, None]
        liking = taste.start[:active] + progress * (taste.end[:active] - taste.start[:active])
        mood[:active][visits.opens[events]] = 0.0
        logits = TASTE_WEIGHT * liking + MOOD_WEIGHT * (mood[:active] @ taste.traits.T)
        logits += appeal[day // 7] + unseen[:active]
        waits = rng.standard_exponential(size=logits.shape, dtype=np.float32)
        logits -= np.log(np.maximum(waits, MIN_WAIT))
        rows, best = np.arange(active), logits.argmax(axis=1)
        chosen[events], affinity[events] = best, liking[rows, best]
        unseen[rows, best] = -np.inf
        mood[:active] = MOOD_MEMORY * mood[:active] + (1 - MOOD_MEMORY) * taste.traits[best]
    return chosen, affinity


def _rate(
    rng: np.random.Generator, visits: Visits, chosen: npt.NDArray[np.int64], affinity: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return ratings in half steps: level, the user's and the film's bias, affinity, and noise."""
    strictness = np.repeat(rng.normal(0.0, 0.4, size=visits.counts.size), visits.counts)
    quality = rng.normal(0.0, 0.4, size=int(chosen.max()) + 1)[chosen]
    raw = 3.0 + strictness + quality + 0.45 * affinity + rng.normal(0.0, 0.6, size=chosen.size)
    return (np.clip(np.rint(raw * 2.0), 1.0, 10.0) / 2.0).astype(np.float32)
