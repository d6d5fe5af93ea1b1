"""People of items: from names in a file to the arrays that a catalogue carries."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from offline.dataset.credits import build_people, person_id, read_people, split_names
from offline.dataset.interactions import Dataset
from offline.dataset.tables import read_table
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.ingest import append_interactions, ingest
from recsys.people import People

INTERACTIONS = b"user,item,timestamp\nann,2,100\nann,1,200\nbob,3,300\n"
ITEMS = (
    "id,title,directors,cast,writers,overview,runtime,budget,release_date,available_from\n"
    '1,One,Zoë  Ray (co-director)|Ann Bo,"Moe, Jr.|N/A|Moe, Jr.","  ZOË RAY (story)","A  long\nway. ",90,,1999-02-03,\n'
    "2,Two,,Ann Bo,,N/A,,,,\n"
    "3,Three,Late Comer,,,Later.,100.5,2000000,,\n"
).encode()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of three items, of which the third comes last."""
    raw = tmp_path_factory.mktemp("raw")
    (raw / "interactions.csv").write_bytes(INTERACTIONS)
    (raw / "items.csv").write_bytes(ITEMS)
    tables = tmp_path_factory.mktemp("made") / "tables"
    ingest(open_dataset("own", raw), tables)
    return tables


def named(people: People) -> list[list[tuple[str, int]]]:
    """(name, role) of each credit, per item."""
    names = {person_id(name): name for name in ("Zoë Ray", "Ann Bo", "Moe, Jr.", "Late Comer")}
    pairs = [
        (names[int(people.person_ids[row])], int(role))
        for row, role in zip(people.person_rows, people.roles, strict=True)
    ]
    return [pairs[start:end] for start, end in zip(people.indptr[:-1], people.indptr[1:], strict=True)]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        ("N/A", []),
        ("", []),
        ("Ann Bo|ann bo|Bo Ann", ["Ann Bo", "Bo Ann"]),
        (["Ann  Bo (writer)", None, "unknown"], ["Ann Bo"]),
        ("Lee (novel, 1990) (as Lee)", ["Lee"]),
    ],
)
def test_names_are_cleaned_and_kept_in_order(value: str | list[str] | None, names: list[str]) -> None:
    assert split_names(value) == names


def test_a_person_has_one_number_however_the_name_is_written() -> None:
    assert person_id("Zoë Ray") == person_id("  ZOE\N{COMBINING DIAERESIS}  ray ") != person_id("Zoe Ray")
    assert 0 <= person_id("Zoë Ray") < 1 << 53
    assert person_id("John Lasseter") == 3_107_845_706_586_195  # stored numbers must not change with the software


def test_the_table_lists_credits_by_item_role_and_billing(tables: Path) -> None:
    rows = read_table(tables, "item_people").to_pylist()
    assert [(row["item_id"], row["name"], row["role"], row["position"]) for row in rows] == [
        (1, "Zoë Ray", "director", 0),
        (1, "Ann Bo", "director", 1),
        (1, "Moe, Jr.", "cast", 0),
        (1, "ZOË RAY", "writer", 0),
        (2, "Ann Bo", "cast", 0),
        (3, "Late Comer", "director", 0),
    ]
    assert rows[0]["person_id"] == rows[3]["person_id"] == person_id("Zoë Ray")


def test_texts_and_measures_are_kept(tables: Path) -> None:
    assert read_table(tables, "item_texts").to_pylist() == [
        {"item_id": 1, "overview": "A long way."},
        {"item_id": 3, "overview": "Later."},
    ]
    items = read_table(tables, "items")
    assert items["released"].to_pylist() == [918_000_000, None, None]
    assert items["runtime"].to_pylist() == [90.0, None, 100.5]
    assert items["budget"].to_pylist() == [None, None, 2e6]


def test_a_snapshot_knows_the_people_of_its_own_items_only(tables: Path) -> None:
    dataset = Dataset.load("own", tables)
    everything, early = dataset.snapshot(300).catalogue, dataset.snapshot(200).catalogue
    assert everything.people is not None
    assert early.people is not None
    expected = [[("Zoë Ray", 1), ("Ann Bo", 1), ("Moe, Jr.", 2), ("Zoë Ray", 3)], [("Ann Bo", 2)]]
    assert named(early.people) == expected
    assert named(everything.people) == [*expected, [("Late Comer", 1)]]
    assert len(early.people) == 3
    assert early.budgets is None
    assert everything.budgets is not None
    assert dataset.snapshot(100).catalogue.runtimes is None


def test_nobody_is_named_where_no_file_names_anybody() -> None:
    empty = build_people(pa.table({"item_id": [1], "title": ["One"]}))
    assert empty.num_rows == 0
    assert empty.schema.names == ["item_id", "person_id", "name", "role", "position"]


def test_recorded_events_keep_people_and_make_room_for_new_items(tables: Path, tmp_path: Path) -> None:
    raw, copied = tmp_path / "raw", tmp_path / "tables"
    raw.mkdir()
    (raw / "interactions.csv").write_bytes(INTERACTIONS)
    (raw / "items.csv").write_bytes(ITEMS)
    ingest(open_dataset("own", raw), copied)
    event = {
        "user_key": ["ann"],
        "item_key": ["0"],
        "type": pa.array([2], pa.int8()),
        "value": pa.array([None], pa.float64()),
        "timestamp": [400],
    }
    append_interactions(copied, [pa.table(event)])
    dataset = Dataset.load("own", copied)
    people = read_people(copied, dataset.items.item_ids)
    assert dataset.items.item_ids.tolist() == [0, 1, 2, 3]
    assert people is not None
    assert named(people)[0] == []
    assert named(people)[2] == [("Ann Bo", 2)]


def test_filmographies_read_as_sentences(tables: Path) -> None:
    with duckdb.connect(config={"file_search_path": str(tables)}) as connection:
        connection.execute((tables / "views.sql").read_text("utf-8"))
        found = connection.execute("SELECT name, role, items, titles FROM filmographies ORDER BY name, role").fetchall()
    assert found[:2] == [("Ann Bo", "cast", 1, ["Two"]), ("Ann Bo", "director", 1, ["One"])]


def test_the_demo_names_directors_and_cast() -> None:
    table = next(iter(open_dataset("demo").items(Findings()))).table
    rows = build_people(table.rename_columns(["item_id", *table.column_names[1:]])).to_pylist()
    assert {row["role"] for row in rows} == {"director", "cast"}
    assert ("Stanley Kubrick", "director") in {(row["name"], row["role"]) for row in rows}
