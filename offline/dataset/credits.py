"""Who made the items: the table item_people, and the ragged arrays of it that a catalogue carries."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offline.dataset.tables import SCHEMAS, table_path
from recsys.domain import Ids
from recsys.identity import FIRST_ASSIGNED
from recsys.people import People, Role

COLUMNS = {Role.DIRECTOR: "directors", Role.CAST: "cast", Role.WRITER: "writers"}
"""Columns of item rows that name people, by what they did."""

PLACEHOLDER_NAMES = frozenset({"", "n/a", "unknown"})
"""What files write where there is no name, in lower case."""

REMARK = re.compile(r"\s*\([^()]*\)")
"""Behind a name: "(screenplay by)", "(co-director)"."""


def split_names(value: str | Iterable[str] | None) -> list[str]:
    """Names in their order, each once, of "A|B" or of a list; no remarks in brackets, no `PLACEHOLDER_NAMES`."""
    if value is None:
        return []
    parts = value.split("|") if isinstance(value, str) else value
    names: dict[int, str] = {}
    for part in parts:
        name = " ".join(REMARK.sub("", part or "").split())
        if name.lower() not in PLACEHOLDER_NAMES:
            names.setdefault(person_id(name), name)
    return list(names.values())


def person_id(name: str) -> int:
    """A number in [0, 2^53) that depends on the name alone, not on its case, accents' encoding or spaces.

    So a person keeps the number in every bundle and data set, whoever is added later.
    """
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest()) % FIRST_ASSIGNED


def build_people(items: pa.Table) -> pa.Table:
    """The table item_people of rows that have an `item_id` and any of `COLUMNS`: by item, role and billing."""
    rows = sorted(_credits(items), key=lambda row: (row[0], row[3], row[4]))
    columns = list(zip(*rows, strict=True)) or [()] * 5
    item_ids, person_ids, names, roles, positions = columns
    words = [Role(role).name.lower() for role in roles]
    schema = SCHEMAS["item_people"]
    arrays = (item_ids, person_ids, names, words, positions)
    return pa.table([pa.array(array, field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema)


def _credits(items: pa.Table) -> Iterator[tuple[int, int, str, int, int]]:
    item_ids = items["item_id"].to_pylist()
    for role, column in COLUMNS.items():
        if column not in items.column_names:
            continue
        for item_id, value in zip(item_ids, items[column].to_pylist(), strict=True):
            for position, name in enumerate(split_names(value)):
                yield item_id, person_id(name), name, int(role), position


def read_people(tables: Path, item_ids: Ids) -> People | None:
    """The credits of all items of the tables, whose ids ascend; None where the tables have no credits."""
    path = table_path(tables, "item_people")
    if not path.is_file():
        return None
    table = pq.read_table(path, columns=["item_id", "person_id", "role"])
    numbers = {role.name.lower(): int(role) for role in Role}
    owners = table["item_id"].to_numpy()
    roles = np.asarray([numbers[word] for word in table["role"].to_pylist()], np.int8)
    person_ids, person_rows = np.unique(table["person_id"].to_numpy(), return_inverse=True)
    counts = np.bincount(np.searchsorted(item_ids, owners), minlength=len(item_ids))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return People(indptr, person_rows.astype(np.int32), roles, person_ids) if len(owners) else None
