"""The tables in memory, and what was known of them at a cut-off: the one input of every training job."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from offline.dataset.credits import read_people
from recsys.catalogue import NO_YEAR, Catalogue, ItemTexts
from recsys.domain import EVENT_SEMANTICS, EVENT_WEIGHTS, EventType, History, Ids
from recsys.people import People


@dataclass(frozen=True, slots=True)
class Interactions:
    """Events of all users in stable order of (time, file order): five parallel arrays."""

    user_ids: Ids
    item_ids: Ids
    timestamps: Ids
    types: NDArray[np.int8]
    values: NDArray[np.float32]
    """NaN where the event has no value."""

    def __len__(self) -> int:
        return len(self.user_ids)

    def take(self, index: slice | Ids | NDArray[np.bool_]) -> Interactions:
        """The events at `index`, in that order."""
        return Interactions(
            self.user_ids[index], self.item_ids[index], self.timestamps[index], self.types[index], self.values[index]
        )

    def until(self, cutoff: int) -> Interactions:
        """Events at or before `cutoff`."""
        return self.take(slice(0, int(np.searchsorted(self.timestamps, cutoff, side="right"))))

    def between(self, after: int, until: int) -> Interactions:
        """Events later than `after`, up to and including `until`."""
        start, end = (int(np.searchsorted(self.timestamps, moment, side="right")) for moment in (after, until))
        return self.take(slice(start, end))

    def quantile(self, fraction: float) -> int:
        """The timestamp of the last event within the first `fraction` of all events (lower quantile of time)."""
        return int(np.quantile(self.timestamps, fraction, method="lower"))


@dataclass(frozen=True, slots=True)
class Items:
    """The item table, sorted by item id."""

    item_ids: Ids
    keys: NDArray[np.object_]
    titles: NDArray[np.object_]
    years: NDArray[np.int16]
    available_from: Ids
    """Unix seconds. Explicit, else the first event of the item, else the last timestamp of the data."""
    genres: NDArray[np.bool_]
    genre_names: tuple[str, ...]
    people: People | None
    runtimes: NDArray[np.float32]
    """Minutes; NaN where unknown."""
    budgets: NDArray[np.float32]
    """NaN where unknown."""

    def take(self, index: NDArray[np.bool_]) -> Items:
        """The items at `index`."""
        return replace(
            self,
            item_ids=self.item_ids[index],
            keys=self.keys[index],
            titles=self.titles[index],
            years=self.years[index],
            available_from=self.available_from[index],
            genres=self.genres[index],
            people=self.people.take(index) if self.people else None,
            runtimes=self.runtimes[index],
            budgets=self.budgets[index],
        )


KEPT_EVENTS = 20_000_000
"""Events of the snapshots that a data set keeps: of 40 to 50 bytes each."""


@dataclass(frozen=True)
class Dataset:
    """Everything that `ingest` wrote."""

    name: str
    interactions: Interactions
    items: Items

    @classmethod
    def load(cls, name: str, tables: Path) -> Dataset:
        """Reads the Parquet tables below `tables`."""
        interactions = _read_interactions(tables)
        return cls(name, interactions, _read_items(tables, interactions))

    def snapshot(self, cutoff: int) -> Snapshot:
        """What was known at `cutoff`: events up to it, items available by then. Nothing later can change it.

        Those asked for last are kept, as far as `KEPT_EVENTS` allows; others are made again.
        """
        found = self._made.pop(cutoff, None)
        if found is None:
            self._make_room(len(self.interactions.until(cutoff)))
            found = self._snapshot(cutoff)
        self._made[cutoff] = found
        return found

    def items_at(self, cutoff: int) -> Items:
        """The items available by `cutoff`, and the genres that they have."""
        items = self.items.take(self.items.available_from <= cutoff)
        named = np.flatnonzero(items.genres.any(axis=0))
        return replace(
            items, genres=items.genres[:, named], genre_names=tuple(items.genre_names[column] for column in named)
        )

    def digest(self, cutoff: int) -> str:
        """A digest of all events up to `cutoff` and of the ids of the items available by then.

        Other data, or the same in another order, have another one.
        """
        digest = hashlib.sha256(f"{self.name} {cutoff}".encode())
        events = self.interactions.until(cutoff)
        digest.update(self.items.item_ids[self.items.available_from <= cutoff].data)
        for column in (events.user_ids, events.item_ids, events.timestamps, events.types, events.values):
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    @cached_property
    def by_user(self) -> NDArray[np.integer]:
        """Positions of all events, grouped by user (ascending), in order of time within one.

        What is left of them below some number is grouped likewise: the order of every snapshot comes from here.
        """
        order = np.argsort(self.interactions.user_ids, kind="stable")
        return order.astype(np.int32) if len(order) <= np.iinfo(np.int32).max else order

    @cached_property
    def _made(self) -> dict[int, Snapshot]:
        """Snapshots by cut-off, the one asked for last at the end."""
        return {}

    def _make_room(self, events: int) -> None:
        """Forgets snapshots until `events` more are within `KEPT_EVENTS`."""
        while self._made and events + sum(len(kept.item_ids) for kept in self._made.values()) > KEPT_EVENTS:
            del self._made[next(iter(self._made))]

    def _snapshot(self, cutoff: int) -> Snapshot:
        events = self.interactions.until(cutoff)
        order = self.by_user[self.by_user < len(events)]
        return Snapshot.build(self.name, cutoff, self.items_at(cutoff), events, order=order)


@dataclass(frozen=True)
class Snapshot:
    """Training data at one cut-off. Events are grouped by user (rows in order of user id), oldest first."""

    dataset: str
    cutoff: int
    items: Items
    user_ids: Ids
    indptr: Ids
    """int64[users + 1]: the events of user row u are at indptr[u]:indptr[u + 1]."""
    item_ids: Ids
    timestamps: Ids
    types: NDArray[np.int8]
    values: NDArray[np.float32]

    @classmethod
    def build(
        cls,
        dataset: str,
        cutoff: int,
        items: Items,
        events: Interactions,
        *,
        order: NDArray[np.integer] | None = None,
    ) -> Snapshot:
        """Groups events by user, keeping the stable order of time; events of unknown items are left out.

        `order` are the positions of events in that order, where they are known already.
        """
        order = np.argsort(events.user_ids, kind="stable") if order is None else order
        known = np.isin(events.item_ids, items.item_ids)
        order = order if known.all() else order[known[order]]
        users = events.user_ids[order]
        starts = np.flatnonzero(np.diff(users, prepend=-1)) if len(users) else np.empty(0, np.int64)
        return cls(
            dataset,
            cutoff,
            items,
            users[starts],
            np.append(starts, len(users)).astype(np.int64),
            events.item_ids[order],
            events.timestamps[order],
            events.types[order],
            events.values[order],
        )

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items as serving sees them."""
        items = self.items
        return Catalogue(
            items.item_ids,
            items.years,
            items.genres,
            items.genre_names,
            people=items.people,
            runtimes=_where_known(items.runtimes),
            budgets=_where_known(items.budgets),
        )

    @cached_property
    def texts(self) -> ItemTexts:
        """Keys and titles by catalogue row."""
        return ItemTexts.of(self.items.keys.tolist(), self.items.titles.tolist())

    @cached_property
    def events(self) -> TrainingEvents:
        """Events that are evidence of taste, as dense rows, grouped by user; re-ratings replaced."""
        return TrainingEvents.build(self)

    def history(self, user_id: int) -> History:
        """All events of one user, oldest first; empty for a user without any."""
        row = int(np.searchsorted(self.user_ids, user_id))
        if row == len(self.user_ids) or self.user_ids[row] != user_id:
            return History.empty()
        events = slice(int(self.indptr[row]), int(self.indptr[row + 1]))
        return History(self.item_ids[events], self.timestamps[events], self.types[events], self.values[events])


@dataclass(frozen=True, slots=True)
class TrainingEvents:
    """What models train on: sequence events (see `EVENT_SEMANTICS`) of a snapshot, grouped by user, oldest first."""

    indptr: Ids
    """int64[users + 1]."""
    user_rows: NDArray[np.int32]
    item_rows: NDArray[np.int32]
    """Rows of the snapshot's catalogue."""
    timestamps: Ids
    values: NDArray[np.float32]
    """Ratings or weights; NaN where there is none."""
    weights: NDArray[np.float32]
    """Weight of the event type."""

    @classmethod
    def build(cls, snapshot: Snapshot) -> TrainingEvents:
        """The vectorised twin of `History.sequence`, for all users at once (a test holds them equal)."""
        users = np.repeat(np.arange(len(snapshot.user_ids), dtype=np.int32), np.diff(snapshot.indptr))
        items = snapshot.catalogue.rows(snapshot.item_ids).astype(np.int32)
        enters = [number for number, meaning in EVENT_SEMANTICS.items() if meaning.enters_sequence]
        kept = np.isin(snapshot.types, [*enters, 0])
        kept[_replaced(users, items, snapshot.types <= EventType.RATING)] = False
        # A view of what the snapshot holds, where all of it is kept.
        chosen = slice(None) if kept.all() else kept
        users = users[chosen]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(snapshot.user_ids)))])
        return cls(
            indptr.astype(np.int64),
            users,
            items[chosen],
            snapshot.timestamps[chosen],
            snapshot.values[chosen],
            EVENT_WEIGHTS[snapshot.types[chosen]],
        )


def _replaced(users: NDArray[np.int32], items: NDArray[np.int32], ratings: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Positions of the ratings of which there is a later one by the same user of the same item."""
    pairs = users.astype(np.int64) << 32
    pairs |= items
    # Most logs have few or none: only pairs that are next to an equal one when sorted are looked at one by one.
    ordered = np.sort(pairs if ratings.all() else pairs[ratings])
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    del ordered
    if not len(again):
        return np.empty(0, np.int64)
    repeated = np.flatnonzero(ratings & np.isin(pairs, again))
    _, last_in_reverse = np.unique(pairs[repeated][::-1], return_index=True)
    return np.delete(repeated, len(repeated) - 1 - last_in_reverse)


def _read_interactions(tables: Path) -> Interactions:
    table = pq.read_table(tables / "ratings.parquet", columns=["user_id", "item_id", "timestamp", "type", "value"])
    columns = {name: table[name].to_numpy() for name in ("user_id", "item_id", "timestamp", "type")}
    values = table["value"].cast("float32").to_numpy()
    return Interactions(
        columns["user_id"].astype(np.int64, copy=False),
        columns["item_id"].astype(np.int64, copy=False),
        columns["timestamp"].astype(np.int64, copy=False),
        columns["type"].astype(np.int8, copy=False),
        np.asarray(values, np.float32),
    )


def _read_items(tables: Path, interactions: Interactions) -> Items:
    table = pq.read_table(tables / "items.parquet").sort_by("item_id")
    item_ids = table["item_id"].to_numpy().astype(np.int64)
    pairs = pq.read_table(tables / "item_genres.parquet")
    names = sorted(set(pairs["genre"].to_pylist()))
    genres = np.zeros((len(item_ids), len(names)), np.bool_)
    column_of = {name: column for column, name in enumerate(names)}
    rows = np.searchsorted(item_ids, pairs["item_id"].to_numpy())
    genres[rows, [column_of[name] for name in pairs["genre"].to_pylist()]] = True
    return Items(
        item_ids,
        table["item_key"].to_numpy(),
        table["title"].to_numpy(),
        table["year"].fill_null(NO_YEAR).to_numpy().astype(np.int16),
        _available_from(table["available_from"].to_pylist(), item_ids, interactions),
        genres,
        tuple(names),
        read_people(tables, item_ids),
        *(np.asarray(table[name].cast("float32").to_numpy(), np.float32) for name in ("runtime", "budget")),
    )


def _where_known(values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    return None if np.isnan(values).all() else values


def _available_from(explicit: list[int | None], item_ids: Ids, interactions: Interactions) -> Ids:
    end = int(interactions.timestamps[-1]) if len(interactions) else 0
    available = np.full(len(item_ids), end, np.int64)
    first_ids, first_rows = np.unique(interactions.item_ids, return_index=True)
    rows = np.searchsorted(item_ids, first_ids)
    available[rows] = interactions.timestamps[first_rows]
    given = np.asarray([value is not None for value in explicit], np.bool_)
    available[given] = [value for value in explicit if value is not None]
    return available


def save_catalogue(snapshot: Snapshot, folder: Path) -> None:
    """Writes the items of the snapshot and their texts below `folder`, as a bundle has them."""
    snapshot.catalogue.save(folder)
    snapshot.texts.save(folder)
