"""docs/how-to/your-own-interactions.md: the example file is read, and the tables are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq

from offline.ingest.datasets.registry import PUBLISHED, open_dataset
from offline.ingest.ingest import ingest
from recsys.domain import EVENT_SEMANTICS, EventType
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs/how-to/your-own-interactions.md"


def test_the_example_is_read_as_the_page_says(tmp_path: Path) -> None:
    (example,) = [block for block in blocks("csv") if block.page == PAGE]
    (tmp_path / "interactions.csv").write_text(example.text, encoding="utf-8")
    ingest(open_dataset("shop", tmp_path), tmp_path / "tables")
    rows = pq.read_table(tmp_path / "tables/ratings.parquet").to_pylist()
    assert [(row["type"], row["value"]) for row in rows] == [
        (EventType.RATING, 4.5),
        (EventType.VIEW, None),
        (EventType.RATING, 3.0),
    ]
    assert [row["user_id"] - 2**53 for row in rows] == [0, 0, 1]
    assert [row["item_id"] - 2**53 for row in rows] == [0, 1, 0]
    assert rows[0]["timestamp"] == 1_709_317_200


def test_the_event_table_is_the_one_that_is_used() -> None:
    found = re.findall(
        r"^\| `(\w+)` \| (\d) \| (yes|no) \| ([\d.]+) \| (yes|no) \| (yes|no) \|$", PAGE.read_text(), re.M
    )
    expected = [
        (
            kind.name.lower(),
            str(kind.value),
            "yes" if meaning.counts_as_seen else "no",
            f"{meaning.weight:g}",
            "yes" if meaning.enters_sequence else "no",
            "yes" if meaning.excludes else "no",
        )
        for kind, meaning in EVENT_SEMANTICS.items()
    ]
    assert found == expected


def test_every_published_set_is_named() -> None:
    assert {name for name in PUBLISHED if f"`{name}`" not in PAGE.read_text(encoding="utf-8")} == set()
