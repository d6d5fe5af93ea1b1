"""The tables around the ratings: items with their genres, people and texts, users, tags and links."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from offline.dataset.credits import build_people
from offline.dataset.ids import IdTable
from offline.dataset.tables import SCHEMAS, IdTables
from offline.ingest.datasets.findings import MAX_EXAMPLES, Findings
from offline.ingest.datasets.records import Rows
from offline.ingest.interaction_reader import IdSet, numbers_of
from offline.ingest.validity import drop_invalid, id_checks, time_checks, truth

NO_GENRE = ("", "(no genres listed)", "unknown")
"""What data sets write where an item has no genre."""

YEARS = (1000, 2999)
"""A year outside is not one."""


def _numbered(rows: Rows, role: str, ids: IdTable, findings: Findings, *, table: str) -> pa.Table:
    """Rows whose id is usable, with the column `role` replaced by `role`_id."""
    findings.count_rows(table, len(rows))
    kept = drop_invalid(rows, id_checks(rows.table[role], role), findings, table=table)
    valid = rows.table.filter(pa.array(kept))
    numbers = pa.array(numbers_of(valid[role], ids))
    return valid.set_column(valid.column_names.index(role), f"{role}_id", numbers)


def _joined(parts: list[pa.Table], empty: pa.Schema) -> pa.Table:
    return pa.concat_tables(parts, promote_options="permissive") if parts else empty.empty_table()


def _without_repeats(table: pa.Table, role: str, findings: Findings) -> pa.Table:
    """The first row of each id, ordered by id; later rows of the same id are listed."""
    ids = np.asarray(table[f"{role}_id"], dtype=np.int64)
    _, first = np.unique(ids, return_index=True)
    later = np.setdiff1d(np.arange(len(ids)), first)
    examples = [f"{role} {ids[row]}" for row in later[:MAX_EXAMPLES]]
    findings.drop(f"{role}s: id occurs again", len(later), examples)
    return table.take(pa.array(first))


def add_missing(table: pa.Table, role: str, ids: NDArray[np.int64]) -> pa.Table:
    """A table of items or users (`role`) with a row per id of `ids`, ordered by id; new rows are otherwise null."""
    missing = np.setdiff1d(ids, np.asarray(table[f"{role}_id"], dtype=np.int64))
    extra = pa.table({f"{role}_id": pa.array(missing, pa.int64())})
    joined = pa.concat_tables([table, extra], promote_options="permissive")
    return joined.sort_by(f"{role}_id")


def build_items(
    source: Iterable[Rows], ids: IdTables, occurring: NDArray[np.int64], findings: Findings
) -> dict[str, pa.Table]:
    """The tables items, item_genres, item_people and item_texts.

    An occurring item that the source does not describe has its key for a title.
    """
    empty = pa.schema([("item_id", pa.int64()), ("title", pa.string())])
    parts = [_numbered(rows, "item", ids.items, findings, table="items") for rows in source]
    items = _without_repeats(_joined(parts, empty), "item", findings)
    described = items.num_rows
    genres = _genres(items) if "genres" in items.column_names else SCHEMAS["item_genres"].empty_table()
    people, texts = build_people(items), _texts(items)
    items = add_missing(items, "item", occurring)
    if described and items.num_rows > described:
        findings.warn(f"{items.num_rows - described} items are not in the items file; their keys serve as titles")
    complete = complete_items(items, ids.items, findings)
    return {"items": complete, "item_genres": genres, "item_people": people, "item_texts": texts}


def complete_items(items: pa.Table, ids: IdTable, findings: Findings) -> pa.Table:
    """Fills in keys, titles and absent columns of a table of items."""
    keys = ids.keys(np.asarray(items["item_id"], dtype=np.int64))
    titled = pc.and_(pc.is_valid(items["title"]), pc.not_equal(items["title"], ""))
    columns = {"item_id": items["item_id"], "item_key": keys}
    columns["title"] = pc.if_else(pc.fill_null(titled, False), items["title"], keys)  # noqa: FBT003
    for field in list(SCHEMAS["items"])[3:]:
        given = items[field.name] if field.name in items.column_names else pa.nulls(items.num_rows, field.type)
        columns[field.name] = _plausible_years(given, keys, findings) if field.name == "year" else given
    return pa.table(columns).cast(SCHEMAS["items"])


def _plausible_years(years: pa.ChunkedArray, keys: pa.Array, findings: Findings) -> pa.ChunkedArray:
    odd = truth(pc.or_(pc.less(years, YEARS[0]), pc.greater(years, YEARS[1])))
    examples = [f"item {keys[row]}: {years[row]}" for row in np.flatnonzero(odd)[:MAX_EXAMPLES]]
    findings.drop(f"items: year is not in {YEARS[0]} to {YEARS[1]} (the item is kept)", int(odd.sum()), examples)
    return pc.if_else(pa.array(odd), pa.scalar(None, years.type), years)


def _genres(items: pa.Table) -> pa.Table:
    """One row per (item, genre), in the order of items; each pair once."""
    column = items["genres"].combine_chunks()
    lists = column if pa.types.is_nested(column.type) else pc.split_pattern(column, "|")
    names = pc.utf8_trim_whitespace(pc.cast(pc.list_flatten(lists), pa.string()))
    owners = items["item_id"].combine_chunks().take(pc.list_parent_indices(lists))
    pairs = pa.table({"item_id": owners, "genre": names})
    pairs = pairs.filter(pc.invert(pc.is_in(pairs["genre"], pa.array([None, *NO_GENRE], pa.string()))))
    return pairs.group_by(["item_id", "genre"], use_threads=False).aggregate([]).select(["item_id", "genre"])


def _texts(items: pa.Table) -> pa.Table:
    """One row per item with an overview, in the order of items; white space is made single spaces."""
    if "overview" not in items.column_names:
        return SCHEMAS["item_texts"].empty_table()
    overviews = pc.utf8_trim_whitespace(pc.replace_substring_regex(items["overview"], r"\s+", " "))
    texts = pa.table({"item_id": items["item_id"], "overview": overviews})
    empty = pc.is_in(pc.utf8_lower(texts["overview"]), pa.array([None, "", "n/a"], pa.string()))
    return texts.filter(pc.invert(empty)).cast(SCHEMAS["item_texts"])


def build_users(source: Iterable[Rows], ids: IdTables, occurring: NDArray[np.int64], findings: Findings) -> pa.Table:
    """The table users: everybody who occurs or is described, with the demographic columns that the source has."""
    parts = [_numbered(rows, "user", ids.users, findings, table="users") for rows in source]
    users = _without_repeats(_joined(parts, pa.schema([("user_id", pa.int64())])), "user", findings)
    return complete_users(add_missing(users, "user", occurring), ids.users)


def complete_users(users: pa.Table, ids: IdTable) -> pa.Table:
    """Fills in the keys of a table of users."""
    keys = ids.keys(np.asarray(users["user_id"], dtype=np.int64))
    rest = users.drop_columns([name for name in ("user_key",) if name in users.column_names])
    return rest.add_column(1, "user_key", pa.chunked_array([keys]))


def build_tags(
    source: Iterable[Rows], ids: IdTables, findings: Findings
) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.int64]]:
    """The table tags in stable order of time, and the users and items that occur in it."""
    parts = []
    users, items = IdSet(), IdSet()
    for rows in source:
        findings.count_rows("tags", len(rows))
        table = rows.table
        empty = truth(pc.equal(pc.utf8_trim_whitespace(pc.fill_null(table["tag"], "")), ""))
        known = [*id_checks(table["user"], "user"), *id_checks(table["item"], "item")]
        checks = [*known, *time_checks(table["timestamp"]), ("tag is empty", empty)]
        kept = drop_invalid(rows, checks, findings, table="tags")
        valid = table.filter(pa.array(kept))
        user_ids, item_ids = numbers_of(valid["user"], ids.users), numbers_of(valid["item"], ids.items)
        users.add(user_ids)
        items.add(item_ids)
        columns = [pa.array(user_ids), pa.array(item_ids), valid["tag"], valid["timestamp"]]
        parts.append(pa.table(columns, schema=SCHEMAS["tags"]))
    tags = _joined(parts, SCHEMAS["tags"])
    return tags.take(pc.sort_indices(tags, [("timestamp", "ascending")])), users.ids(), items.ids()


def build_links(source: Iterable[Rows], ids: IdTables, findings: Findings) -> pa.Table:
    """The table links, ordered by item."""
    parts = [_numbered(rows, "item", ids.items, findings, table="links") for rows in source]
    links = _joined(parts, SCHEMAS["links"])
    _, first = np.unique(np.asarray(links["item_id"], dtype=np.int64), return_index=True)
    return links.take(pa.array(first))
