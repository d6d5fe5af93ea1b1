"""Who made an item: how well-known its people are, and how well the user knows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.catalogue import Catalogue
from recsys.features.events import MISSING
from recsys.people import People, Role

REACH_NAMES = ("item_director_reach", "item_cast_reach")
PEOPLE_NAMES = ("cross_director_events", "cross_director_rating", "cross_cast_events", "cross_cast_overlap")
BILLED_CAST = 8
"""So many names of the cast count, the first ones."""


@dataclass(frozen=True, slots=True)
class Named:
    """The people of one role, by item row."""

    indptr: NDArray[np.int64]
    person_rows: NDArray[np.int32]
    people: int

    @classmethod
    def of(cls, people: People, role: Role) -> Named:
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
    """float64[items] each: the mean logarithm of 1 + the events that other items of the directors, of the cast have.

    `MISSING` where the catalogue names nobody of that role. `counts` are events by item.
    """
    if catalogue.people is None:
        nothing = np.full(len(catalogue), MISSING)
        return nothing, nothing
    people = catalogue.people
    return _reach(Named.of(people, Role.DIRECTOR), counts), _reach(Named.of(people, Role.CAST), counts)


def _reach(named: Named, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    owners, people = named.among(np.arange(len(counts)))
    of_all = np.bincount(people, counts[owners], minlength=named.people)
    logs = np.log1p(np.maximum(of_all[people] - counts[owners], 0.0))
    known = np.bincount(owners, minlength=len(counts))
    sums = np.bincount(owners, logs, minlength=len(counts))
    return np.where(known > 0, sums / np.maximum(known, 1), MISSING)


@dataclass(frozen=True, slots=True)
class PeopleCrosses:
    """Compares candidates with the people of a history."""

    directors: Named
    cast: Named

    @classmethod
    def of(cls, people: People) -> PeopleCrosses:
        """Directors and cast of a catalogue."""
        return cls(Named.of(people, Role.DIRECTOR), Named.of(people, Role.CAST))

    def crosses(
        self, rows: NDArray[np.int64], history_rows: NDArray[np.int64], deviations: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """float32[len(rows), len(PEOPLE_NAMES)].

        director_events  logarithm of 1 + the user's events with the best-known of the item's directors
        director_rating  mean deviation of those events' ratings from the user's mean, over all of its directors
        cast_events      logarithm of 1 + the user's events with the item's cast
        cast_overlap     number of the item's cast that the user has seen

        `deviations` is parallel to `history_rows`. `MISSING` for items without anybody of that role.
        """
        result = np.full((len(rows), len(PEOPLE_NAMES)), MISSING, np.float32)
        owners, events, deviation = _met(self.directors, rows, history_rows, deviations)
        most = np.zeros(len(rows))
        np.maximum.at(most, owners, events)
        sums = [np.bincount(owners, values, minlength=len(rows)) for values in (events, deviation)]
        told = np.unique(owners)
        result[told, 0] = np.log1p(most[told])
        result[told, 1] = sums[1][told] / np.maximum(sums[0][told], 1.0)
        owners, events, _ = _met(self.cast, rows, history_rows, deviations)
        told = np.unique(owners)
        result[told, 2] = np.log1p(np.bincount(owners, events, minlength=len(rows)))[told]
        result[told, 3] = np.bincount(owners, events > 0, minlength=len(rows))[told]
        return result


def _met(
    named: Named, rows: NDArray[np.int64], history_rows: NDArray[np.int64], deviations: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Per person of the candidates: its candidate, the user's events with the person, and the sum of deviations."""
    events, people = named.among(history_rows)
    seen = np.bincount(people, minlength=named.people).astype(np.float64)
    summed = np.bincount(people, deviations[events], minlength=named.people).astype(np.float64)
    owners, candidates = named.among(rows)
    return owners, seen[candidates], summed[candidates]
