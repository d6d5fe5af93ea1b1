"""What is written about each item, as one text: what an embedding model reads."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from offline.dataset.tables import read_table
from recsys.catalogue import NO_YEAR, Catalogue

MAX_NAMES = 8
"""Most people of one role in a text: behind the first, billing says little."""

ROLE_WORDS = {"director": "Directed by", "writer": "Written by", "cast": "With"}


def item_documents(tables: Path, catalogue: Catalogue, *, max_characters: int) -> list[str]:
    """One text per catalogue row: title and year, genres, people, overview; none is empty.

    Nothing in it is an opinion, and all of it is known from when the item is. Tags are left out: they come later.
    """
    rows = {int(item_id): row for row, item_id in enumerate(catalogue.item_ids)}
    titles, people, overviews = _titles(tables, rows), _people(tables, rows), _overviews(tables, rows)
    texts = []
    for row in range(len(catalogue)):
        year = "" if catalogue.years[row] == NO_YEAR else f" ({catalogue.years[row]})"
        genres = [catalogue.genre_names[column] for column in np.flatnonzero(catalogue.genres[row])]
        parts = [f"{titles[row]}{year}", ", ".join(genres)]
        parts += [f"{word} {', '.join(people[row, role])}" for role, word in ROLE_WORDS.items() if people[row, role]]
        parts.append(overviews.get(row, ""))
        texts.append(". ".join(part for part in parts if part)[:max_characters])
    return texts


def _titles(tables: Path, rows: dict[int, int]) -> dict[int, str]:
    items = read_table(tables, "items")
    pairs = zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True)
    return {rows[item_id]: title for item_id, title in pairs if item_id in rows}


def _people(tables: Path, rows: dict[int, int]) -> dict[tuple[int, str], list[str]]:
    """Names by row and role, as they are billed."""
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    for credit in read_table(tables, "item_people").to_pylist():
        row = rows.get(credit["item_id"])
        if row is not None and credit["position"] < MAX_NAMES:
            found[row, credit["role"]].append(credit["name"])
    return found


def _overviews(tables: Path, rows: dict[int, int]) -> dict[int, str]:
    texts = read_table(tables, "item_texts")
    pairs = zip(texts["item_id"].to_pylist(), texts["overview"].to_pylist(), strict=True)
    return {rows[item_id]: overview for item_id, overview in pairs if item_id in rows}
