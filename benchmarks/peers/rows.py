"""The rows that the bench exports for peers: one folder a protocol and data set, read once and checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

EVENT_COLUMNS = {"user_id": "int64", "item_id": "int64", "timestamp": "int64", "value": "float32"}
QUERY_COLUMNS = {"request": "int64", "user_id": "int64", "as_of": "int64"}
HISTORY_COLUMNS = {"request": "int64", "item_id": "int64", "timestamp": "int64", "value": "float32"}
RELEVANT_COLUMNS = {"request": "int64", "item_id": "int64"}
FACTS = ("protocol", "dataset", "targets", "metric", "list_length", "seed")


class RowsError(ValueError):
    """A rows folder that is not what the bench exports."""


@dataclass(frozen=True)
class Events:
    """Interactions in the protocol's stable order.

    `owner` numbers users (training rows) or requests (histories) from 0; `item` is a position in the vocabulary.
    """

    owner: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    value: np.ndarray
    n_owners: int
    n_items: int

    def matrix(self, weights: str = "one", last: int | None = None) -> sparse.csr_matrix:
        """Owners × items, float32. `weights`: one (every rating counts 1), value (the rating) or liked (1 from 4 on).

        `last` keeps each owner's last events in the stable order. An item named twice by an owner counts once, with
        its last value.
        """
        keep = np.ones(len(self.item), dtype=bool)
        if last is not None:
            keep &= events_after(self.owner) < last
        if weights == "liked":
            keep &= self.value >= 4
        newest = newest_of_each_pair(self.owner[keep].astype(np.int64) * self.n_items + self.item[keep])
        owner, item = self.owner[keep][newest], self.item[keep][newest]
        values = self.value[keep][newest] if weights == "value" else np.ones(len(item))
        shape = (self.n_owners, self.n_items)
        return sparse.csr_matrix((values.astype(np.float32), (owner, item)), shape=shape)


def newest_of_each_pair(keys: np.ndarray) -> np.ndarray:
    """Positions of the last occurrence of each key, in ascending order."""
    _, first_from_the_end = np.unique(keys[::-1], return_index=True)
    return np.sort(len(keys) - 1 - first_from_the_end)


def events_after(owner: np.ndarray) -> np.ndarray:
    """For each event the number of later events of the same owner, in the given order."""
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner)) if len(owner) else np.zeros(0, dtype=np.int64)
    places = np.empty(len(owner), dtype=np.int64)
    places[order] = ends[owner[order]] - 1 - np.arange(len(owner))
    return places


@dataclass(frozen=True)
class Requests:
    """What lists are asked for: `ids` in the order of the file, each with its own history (all of it is filtered)."""

    ids: np.ndarray
    as_of: np.ndarray
    history: Events

    def part(self, positions: np.ndarray) -> Requests:
        """The requests at `positions` (ascending), renumbered from 0."""
        number = np.full(len(self.ids), -1, dtype=np.int64)
        number[positions] = np.arange(len(positions))
        keep = number[self.history.owner] >= 0
        history = Events(
            number[self.history.owner[keep]],
            self.history.item[keep],
            self.history.timestamp[keep],
            self.history.value[keep],
            len(positions),
            self.history.n_items,
        )
        return Requests(self.ids[positions], self.as_of[positions], history)


@dataclass(frozen=True)
class RowsFolder:
    """A rows folder. `items[i]` is the id at vocabulary position i, ascending; `listable` marks the catalogue."""

    facts: dict[str, Any]
    items: np.ndarray
    listable: np.ndarray
    fit: Events
    refit: Events
    validation: Requests
    test: Requests
    relevant: sparse.csr_matrix
    fingerprint: str


def read_table(path: Path, columns: dict[str, str]) -> dict[str, np.ndarray]:
    """The columns of a parquet file, with exactly the types of the contract. Raises RowsError."""
    if not path.is_file():
        raise RowsError(f"{path} is missing; export the rows again with the bench")
    schema = pq.read_schema(path)
    wanted = {name: pa.from_numpy_dtype(np.dtype(kind)) for name, kind in columns.items()}
    found = {name: schema.field(name).type for name in schema.names}
    wrong = {name: found.get(name) for name, kind in wanted.items() if found.get(name) != kind}
    if wrong:
        raise RowsError(f"{path} has {wrong} where {columns} is expected; export the rows again with the bench")
    table = pq.read_table(path, columns=list(columns))
    return {name: table[name].to_numpy() for name in columns}


def read_events(path: Path) -> dict[str, np.ndarray]:
    """The training rows of a file, not yet numbered."""
    return read_table(path, EVENT_COLUMNS)


def number_events(table: dict[str, np.ndarray], items: np.ndarray) -> Events:
    """Numbers users in the order of their ids and items by the vocabulary."""
    users, owner = np.unique(table["user_id"], return_inverse=True)
    item = np.searchsorted(items, table["item_id"])
    return Events(owner, item, table["timestamp"], table["value"], len(users), len(items))


def read_requests(folder: Path, name: str, items: np.ndarray) -> Requests:
    """Queries and their histories. Items outside the vocabulary are left out: no model has them, none is listed."""
    queries = read_table(folder / f"{name}_queries.parquet", QUERY_COLUMNS)
    table = read_table(folder / f"{name}_histories.parquet", HISTORY_COLUMNS)
    known = np.isin(table["item_id"], items)
    owner = positions_of(table["request"][known], queries["request"], folder / f"{name}_histories.parquet")
    history = Events(
        owner,
        np.searchsorted(items, table["item_id"][known]),
        table["timestamp"][known],
        table["value"][known],
        len(queries["request"]),
        len(items),
    )
    return Requests(queries["request"], queries["as_of"], history)


def positions_of(requests: np.ndarray, ids: np.ndarray, path: Path) -> np.ndarray:
    """Where each request stands among `ids`. Raises RowsError where one is not among them or `ids` repeats one."""
    order = np.argsort(ids, kind="stable")
    if len(np.unique(ids)) != len(ids):
        raise RowsError(f"the queries next to {path} name a request twice; export the rows again with the bench")
    place = np.searchsorted(ids[order], requests)
    strange = place == len(ids)
    strange[~strange] = ids[order][place[~strange]] != requests[~strange]
    if strange.any():
        raise RowsError(f"{path} names request {requests[strange][0]}, which is not among the queries")
    return order[place]


def read_relevant(folder: Path, validation: Requests, items: np.ndarray) -> sparse.csr_matrix:
    """Requests × vocabulary with one more column for relevant items that no model can list, so that recall and the
    ideal of NDCG count them."""
    table = read_table(folder / "validation_relevant.parquet", RELEVANT_COLUMNS)
    owner = positions_of(table["request"], validation.ids, folder / "validation_relevant.parquet")
    known = np.isin(table["item_id"], items)
    column = np.where(known, np.searchsorted(items, table["item_id"]), len(items))
    ones = np.ones(len(column), dtype=np.float32)
    return sparse.csr_matrix((ones, (owner, column)), shape=(len(validation.ids), len(items) + 1))


def read_facts(folder: Path) -> dict[str, Any]:
    """facts.json, with every fact that a run needs. Raises RowsError."""
    path = folder / "facts.json"
    if not path.is_file():
        raise RowsError(f"{path} is missing: {folder} is no rows folder; export the rows with the bench")
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in FACTS if name not in facts]
    if missing:
        raise RowsError(f"{path} lacks {missing}; export the rows again with the bench")
    return facts


def read_rows(folder: Path) -> RowsFolder:
    """Reads and checks a whole folder. Raises RowsError with the file at fault."""
    facts = read_facts(folder)
    fit, refit = read_events(folder / "fit.parquet"), read_events(folder / "refit.parquet")
    catalogue = read_table(folder / "catalogue.parquet", {"item_id": "int64"})["item_id"]
    items = np.unique(np.concatenate([catalogue, fit["item_id"], refit["item_id"]]))
    validation = read_requests(folder, "validation", items)
    return RowsFolder(
        facts=facts,
        items=items,
        listable=np.isin(items, catalogue),
        fit=number_events(fit, items),
        refit=number_events(refit, items),
        validation=validation,
        test=read_requests(folder, "test", items),
        relevant=read_relevant(folder, validation, items),
        fingerprint=fingerprint_of(folder, facts),
    )


def fingerprint_of(folder: Path, facts: dict[str, Any]) -> str:
    """Of everything in a rows folder, requests included: other moments of the same requests are other rows."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in sorted(folder.glob("*.parquet")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
