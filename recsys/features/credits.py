"""The people who made an item: how well known they are, and how well the user knows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.catalogue import Catalogue
from recsys.features.events import MISSING
from recsys.people import People, Role

REACH_NAMES = ("item_director_reach", "item_cast_reach")
PEOPLE_NAMES = ("cross_director_events", "cross_director_rating", "cross_cast_events", "cross_cast_overlap")
_DIRECTOR_EVENTS, _DIRECTOR_RATING, _CAST_EVENTS, _CAST_OVERLAP = range(len(PEOPLE_NAMES))
BILLED_CAST = 8
"""Number of the first names of the cast that count."""


@dataclass(frozen=True, slots=True)
class RoleCredits:
    """The people of one role, by item row: those of row i are person_rows[indptr[i]:indptr[i + 1]]."""

    indptr: NDArray[np.int64]
    person_rows: NDArray[np.int32]
    people: int

    @classmethod
    def of(cls, people: People, role: Role) -> RoleCredits:
        """At most the first `BILLED_CAST` of each item."""
        own = people.only(role).first(BILLED_CAST)
        return cls(own.indptr, own.person_rows, len(people))

    def among(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Per person of the items at `rows`, the position of the item in `rows`, and the person."""
        starts, lengths = self.indptr[rows], self.indptr[rows + 1] - self.indptr[rows]
        owners = np.repeat(np.arange(len(rows)), lengths)
        before = np.cumsum(lengths) - lengths
        return owners, self.person_rows[np.arange(len(owners)) + np.repeat(starts - before, lengths)]


def reach(catalogue: Catalogue, counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """float64[items] each, directors and cast: the mean log(1 + events of the other items) of its people.

    `MISSING` where the catalogue names nobody of that role. `counts` are events by item.
    """
    if catalogue.people is None:
        nothing = np.full(len(catalogue), MISSING)
        return nothing, nothing
    people = catalogue.people
    return _reach(RoleCredits.of(people, Role.DIRECTOR), counts), _reach(RoleCredits.of(people, Role.CAST), counts)


def _reach(role: RoleCredits, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    # A person's events are those of all of their items; an item's own events are not evidence for it.
    owners, people = role.among(np.arange(len(counts)))
    of_all = np.bincount(people, counts[owners], minlength=role.people)
    logs = np.log1p(np.maximum(of_all[people] - counts[owners], 0.0))
    known = np.bincount(owners, minlength=len(counts))
    sums = np.bincount(owners, logs, minlength=len(counts))
    return np.where(known > 0, sums / np.maximum(known, 1), MISSING)


@dataclass(frozen=True, slots=True)
class PeopleCrosses:
    """Compares candidates with the people of a history."""

    directors: RoleCredits
    cast: RoleCredits

    @classmethod
    def of(cls, people: People) -> PeopleCrosses:
        """Directors and cast of a catalogue."""
        return cls(RoleCredits.of(people, Role.DIRECTOR), RoleCredits.of(people, Role.CAST))

    def crosses(
        self, rows: NDArray[np.int64], history_rows: NDArray[np.int64], deviations: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """float32[len(rows), len(PEOPLE_NAMES)].

        director_events  logarithm of 1 + the user's events with the director of the item that the user knows best
        director_rating  mean deviation of those events' ratings from the user's mean, over all of its directors
        cast_events      logarithm of 1 + the user's events with the item's cast
        cast_overlap     number of the item's cast that the user has seen

        `deviations` is parallel to `history_rows`. `MISSING` for items without anybody of that role.
        """
        result = np.full((len(rows), len(PEOPLE_NAMES)), MISSING, np.float32)
        owners, events, deviation = _known_people(self.directors, rows, history_rows, deviations)
        max_events = np.zeros(len(rows))
        np.maximum.at(max_events, owners, events)
        n_events = np.bincount(owners, events, minlength=len(rows))
        sum_of_deviations = np.bincount(owners, deviation, minlength=len(rows))
        credited = np.unique(owners)
        result[credited, _DIRECTOR_EVENTS] = np.log1p(max_events[credited])
        result[credited, _DIRECTOR_RATING] = sum_of_deviations[credited] / np.maximum(n_events[credited], 1.0)
        owners, events, _ = _known_people(self.cast, rows, history_rows, deviations)
        credited = np.unique(owners)
        result[credited, _CAST_EVENTS] = np.log1p(np.bincount(owners, events, minlength=len(rows)))[credited]
        result[credited, _CAST_OVERLAP] = np.bincount(owners, events > 0, minlength=len(rows))[credited]
        return result


def _known_people(
    role: RoleCredits, rows: NDArray[np.int64], history_rows: NDArray[np.int64], deviations: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Per person of the candidates: its candidate, the user's events with the person, and the sum of deviations."""
    events, people = role.among(history_rows)
    # Only people of the history are counted, however many the catalogue has; the last place is that of everybody else.
    known, positions = np.unique(people, return_inverse=True)
    seen = np.bincount(positions, minlength=len(known) + 1).astype(np.float64)
    summed = np.bincount(positions, deviations[events], minlength=len(known) + 1).astype(np.float64)
    owners, candidates = role.among(rows)
    found = np.searchsorted(known, candidates)
    found[np.append(known, -1)[found] != candidates] = len(known)
    return owners, seen[found], summed[found]
