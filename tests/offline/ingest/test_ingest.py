"""From files to tables: content, order, ids, views, and what stays when something fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from offline.dataset.tables import SCHEMAS, read_table, table_path
from offline.ingest.atomic_swap import versions
from offline.ingest.datasets.records import DatasetSource
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.ingest import append_interactions, ingest
from offline.ingest.report import IngestReport
from recsys.errors import DataMalformed, DataMissing
from recsys.identity import FIRST_ASSIGNED


def _own(folder: Path, interactions: str, items: str | None = None) -> DatasetSource:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "interactions.csv").write_text(interactions, "utf-8")
    if items is not None:
        (folder / "items.csv").write_text(items, "utf-8")
    return open_dataset("shop", folder)


def _rows(tables: Path, name: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in read_table(tables, name).to_pylist()]


def _events(*rows: tuple[str, str, int, float | None, int]) -> pa.Table:
    columns = zip(*rows, strict=True)
    types = (pa.string(), pa.string(), pa.int8(), pa.float64(), pa.int64())
    names = ("user_key", "item_key", "type", "value", "timestamp")
    return pa.table({name: pa.array(column, kind) for name, column, kind in zip(names, columns, types, strict=True)})


def test_movielens_becomes_a_star(tmp_path: Path, shipped: SimpleNamespace) -> None:
    tables = tmp_path / "data" / "ml-latest-small" / "tables"
    folder = shipped.write_folder(tmp_path / "ml", shipped.csv)
    report = ingest(open_dataset("ml-latest-small", folder), tables)
    assert _rows(tables, "ratings") == [
        (1, 3, 964981247, 4.5, 1),
        (1, 1, 964982703, 4.0, 1),
        (2, 1, 1445714835, 0.5, 1),
    ]
    assert _rows(tables, "items") == [
        (1, "1", "Toy Story", 1995, None, None, None, None),
        (2, "2", "The American President", 1995, None, None, None, None),
        (3, "3", "Les Misérables", 1995, None, None, None, None),
    ]
    assert _rows(tables, "item_genres") == [
        *((1, genre) for genre in ("Adventure", "Animation", "Children")),
        *((2, genre) for genre in ("Comedy", "Drama", "Romance")),
    ]
    assert _rows(tables, "users") == [(1, "1"), (2, "2")]
    assert _rows(tables, "tags") == [(1, 3, "dark", 1445714900), (2, 1, 'funny, "really"', 1445714994)]
    assert _rows(tables, "links") == [(1, "0114709", 862), (3, "0112641", None)]
    assert _rows(tables, "item_ids") == _rows(tables, "user_ids") == []
    for name, schema in SCHEMAS.items():
        assert pq.read_schema(table_path(tables, name)) == schema, name
    described = {"item_people": 0, "item_texts": 0}
    assert report.rows == {
        "ratings": 3,
        "items": 3,
        "item_genres": 6,
        "tags": 2,
        "links": 2,
        "users": 2,
        **described,
    }
    assert (report.first_timestamp, report.last_timestamp) == (964981247, 1445714835)
    assert set(report.inputs) == {"ratings.csv", "movies.csv", "tags.csv", "links.csv"}


def test_an_unexpected_row_count_is_a_warning(tmp_path: Path, shipped: SimpleNamespace) -> None:
    report = ingest(open_dataset("ml-1m", shipped.write_folder(tmp_path / "ml", shipped.dat)), tmp_path / "tables")
    assert report.warnings == (
        "ml-1m has 1,000,209 ratings, these files have 3",
        "ml-1m has 6,040 users, these files have 2",
        "ml-1m has 3,883 items, these files have 3",
    )
    assert "warning: ml-1m has 6,040 users, these files have 2" in report.lines()
    assert _rows(tmp_path / "tables", "users")[1] == (2, "2", "M", 56, "16", "70072")


@pytest.mark.parametrize("name", ["csv", "dat", "tenm", "k100"])
def test_every_format_ingests_from_folder_and_zip_alike(tmp_path: Path, shipped: SimpleNamespace, name: str) -> None:
    dataset = {"csv": "ml-32m", "dat": "ml-1m", "tenm": "ml-10m", "k100": "ml-100k"}[name]
    files = getattr(shipped, name)
    ingest(open_dataset(dataset, shipped.write_folder(tmp_path / "a", files)), tmp_path / "folder")
    ingest(open_dataset(dataset, shipped.write_zip(tmp_path / "b.zip", files, inner="x")), tmp_path / "zip")
    for table in SCHEMAS:
        assert read_table(tmp_path / "folder", table).equals(read_table(tmp_path / "zip", table)), table


def test_equal_times_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [(f"u{n % 7}", f"i{n}", n % 3) for n in range(200)]
    source = _own(tmp_path / "own", "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    ingest(source, tmp_path / "tables", memory_limit=160 * 10)
    keys = dict(_rows(tmp_path / "tables", "item_ids"))
    written = [(keys[item], time) for _, item, time, _, _ in _rows(tmp_path / "tables", "ratings")]
    assert written == [(item, time) for _, item, time in sorted(rows, key=lambda row: row[2])]


def test_keys_get_numbers_that_later_ingests_keep(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    ingest(_own(tmp_path / "own", "user,item,timestamp\nann,x,2\n5,y,1\n"), tables)
    assert _rows(tables, "user_ids") == [(FIRST_ASSIGNED, "ann")]
    assert _rows(tables, "item_ids") == [(FIRST_ASSIGNED, "x"), (FIRST_ASSIGNED + 1, "y")]
    ingest(_own(tmp_path / "own", "user,item,timestamp\nbob,z,2\nann,y,1\n"), tables)
    assert _rows(tables, "user_ids") == [(FIRST_ASSIGNED, "ann"), (FIRST_ASSIGNED + 1, "bob")]
    assert _rows(tables, "item_ids") == [(FIRST_ASSIGNED + n, key) for n, key in enumerate("xyz")]
    assert _rows(tables, "ratings") == [
        (FIRST_ASSIGNED, FIRST_ASSIGNED + 1, 1, None, 2),
        (FIRST_ASSIGNED + 1, FIRST_ASSIGNED + 2, 2, None, 2),
    ]
    assert [row[1] for row in _rows(tables, "items")] == ["y", "z"]


def test_items_and_users_that_only_occur_get_rows(tmp_path: Path) -> None:
    interactions = "user,item,timestamp,rating\nann,x,1,5\nann,9,2,3\n"
    items = "id,title,genres,year\n4,Four, A |B|A|,3000\nx,,,1999\n4,Again,C,\n"
    report = ingest(_own(tmp_path / "own", interactions, items), tmp_path / "tables")
    assert [row[:4] for row in _rows(tmp_path / "tables", "items")] == [
        (4, "4", "Four", None),
        (9, "9", "9", None),
        (FIRST_ASSIGNED, "x", "x", 1999),
    ]
    assert _rows(tmp_path / "tables", "item_genres") == [(4, "A"), (4, "B")]
    assert _rows(tmp_path / "tables", "users") == [(FIRST_ASSIGNED, "ann")]
    assert report.dropped["items: id occurs again"].examples == ["item 4"]
    assert report.dropped["items: year is not in 1000 to 2999 (the item is kept)"].examples == ["item 4: 3000"]
    assert "1 items are not in the items file; their keys serve as titles" in report.warnings


def test_invalid_rows_are_dropped_and_listed(tmp_path: Path) -> None:
    bad = [
        (",x,1,5,", "user id is empty"),
        ("a,,1,5,", "item id is empty"),
        (f"{'k' * 257},x,1,5,", "user id is longer than 256 bytes"),
        ("a,x\ty,1,5,", "item id holds a control character"),
        ("a,x,,5,", "no timestamp"),
        ("a,x,-1,5,", "timestamp is negative"),
        ("a,x,1700000000000,5,", "timestamp is after the year 3000 (milliseconds?)"),
        ("a,x,1,nan,", "rating or weight is not a finite number"),
        ("a,x,1,-inf,", "rating or weight is not a finite number"),
        ("a,x,1,10.5,", "rating is not in [0, 10]"),
        ("a,x,1,,rating", "rating without a value"),
        ("a,x,1,-2,view", "weight is negative"),
        ("a,x,1,5,smell", "type is none of rating, view, click, like, dislike, save, impression"),
    ]
    text = "user,item,timestamp,rating,type\na,x,1,5,\n" + "".join(f"{line}\n" for line, _ in bad) + "a,x,1,5,\n"
    report = ingest(_own(tmp_path / "own", text), tmp_path / "tables")
    assert _rows(tmp_path / "tables", "ratings") == [(FIRST_ASSIGNED, FIRST_ASSIGNED, 1, 5.0, 1)]
    expected = {f"ratings: {reason}" for _, reason in bad} | {"ratings: the same row again"}
    assert set(report.dropped) == expected
    assert sum(finding.count for finding in report.dropped.values()) == len(bad) + 1
    assert report.dropped["ratings: timestamp is negative"].examples[0].endswith("interactions.csv:8: a,x,-1,5.0,1")
    assert report.rows_read["ratings"] == len(bad) + 2


def test_a_rating_again_later_is_kept(tmp_path: Path) -> None:
    text = "user,item,timestamp,rating\n1,1,5,3\n1,1,6,3\n1,1,5,4\n1,1,5,3\n"
    report = ingest(_own(tmp_path / "own", text), tmp_path / "tables")
    assert [(time, value) for _, _, time, value, _ in _rows(tmp_path / "tables", "ratings")] == [(5, 3), (5, 4), (6, 3)]
    finding = report.dropped["ratings: the same row again"]
    assert (finding.count, finding.examples) == (1, ["user 1, item 1, timestamp 5, value 3.0"])


def test_nothing_valid_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataMalformed, match=r"not one valid interaction; dropped: ratings: timestamp is negative \(1\)"
    ):
        ingest(_own(tmp_path / "own", "user,item,timestamp\na,x,-1\n"), tmp_path / "tables")


def test_the_report_is_saved_and_read_back(tmp_path: Path) -> None:
    report = ingest(
        _own(tmp_path / "own", "user,item,timestamp\na,x,1\na,y,-1\nbroken\n"), tmp_path / "t", max_bad_lines=1
    )
    assert IngestReport.load(tmp_path / "t") == report
    lines = report.lines()
    assert lines[1].startswith("skipped 1 unparseable lines, first ")
    assert lines[2].startswith("dropped 1 (ratings: timestamp is negative), first ")


@pytest.mark.parametrize(("text", "expected"), [("{", "not JSON"), ('{"format": 99}', "format 99, expected 1")])
def test_a_report_of_another_format_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "ingest.json").write_text(text)
    with pytest.raises(DataMalformed, match=expected):
        IngestReport.load(tmp_path)


def test_tables_that_were_never_written_are_missing(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="python -m offline ingest"):
        read_table(tmp_path, "ratings")
    with pytest.raises(DataMissing, match="python -m offline ingest"):
        append_interactions(tmp_path / "tables", [])


def test_a_failed_ingest_loses_nothing(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    ingest(_own(tmp_path / "own", "user,item,timestamp\nann,x,1\n"), tables)
    before = {path.name: path.read_bytes() for path in tables.iterdir()}
    with pytest.raises(DataMalformed):
        ingest(_own(tmp_path / "own", "user,item,timestamp\nbob,y,2\nbroken\n"), tables)
    assert {path.name: path.read_bytes() for path in tables.iterdir()} == before
    assert len(versions(tables)) == 1
    assert not list(tmp_path.glob(".tables.new-*"))


def test_views_open_in_duckdb(tmp_path: Path, shipped: SimpleNamespace) -> None:
    tables = tmp_path / "tables"
    ingest(open_dataset("ml-32m", shipped.write_folder(tmp_path / "ml", shipped.csv)), tables)
    with duckdb.connect(config={"file_search_path": str(tables)}) as connection:
        connection.execute((tables / "views.sql").read_text("utf-8"))
        views = [
            name for (name,) in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        ]
        assert {*SCHEMAS} - {"item_ids", "user_ids"} < set(views)
        unnamed = {"item_people", "item_texts", "filmographies"}  # MovieLens names nobody
        for view in views:
            found = connection.execute(f"SELECT count(*) FROM {view}").fetchone()
            assert (found == (0,)) == (view in unnamed), view
        named = connection.execute(
            "SELECT user_key, title, type_name, value FROM interactions ORDER BY moment"
        ).fetchall()
        assert named[0] == ("1", "Les Misérables", "rating", 4.5)
        activity = connection.execute("SELECT item_id, interactions, users, mean_rating FROM item_activity ORDER BY 1")
        assert activity.fetchall() == [(1, 2, 2, 2.25), (2, 0, 0, None), (3, 1, 1, 4.5)]


def test_recorded_events_are_appended_in_order_of_time(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    items = "id,title,genres\nx,The X,A\n"
    ingest(_own(tmp_path / "own", "user,item,timestamp,rating\nann,x,10,5\nann,y,20,4\n", items), tables)
    events = _events(("bob", "x", 4, None, 15), ("ann", "z", 1, 3.0, 30), ("7", "y", 6, None, 20))
    report = append_interactions(tables, [events])
    ann, bob = FIRST_ASSIGNED, FIRST_ASSIGNED + 1
    x, y, z = (FIRST_ASSIGNED + n for n in range(3))
    expected = [
        (ann, x, 10, 5.0, 1),
        (bob, x, 15, None, 4),
        (ann, y, 20, 4.0, 1),
        (7, y, 20, None, 6),
        (ann, z, 30, 3.0, 1),
    ]
    assert _rows(tables, "ratings") == expected
    assert [row[:3] for row in _rows(tables, "items")] == [(x, "x", "The X"), (y, "y", "y"), (z, "z", "z")]
    assert _rows(tables, "users") == [(7, "7"), (ann, "ann"), (bob, "bob")]
    assert _rows(tables, "item_genres") == [(x, "A")]
    assert (report.appended, report.rows["ratings"], report.last_timestamp) == (3, 5, 30)
    again = append_interactions(tables, [events])
    assert _rows(tables, "ratings") == expected
    assert (again.appended, again.dropped["ratings: the same row again"].count) == (3, 3)


def test_invalid_events_are_dropped_and_listed(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    ingest(_own(tmp_path / "own", "user,item,timestamp\nann,x,10\n"), tables)
    report = append_interactions(tables, [_events(("ann", "x", 1, None, 11)), _events(("ann", "x", 9, None, 12))])
    assert report.appended == 0
    assert report.dropped["ratings: rating without a value"].examples == ["events:1: ann,x,11,,1"]
    assert [reason for reason in report.dropped if "type is none of" in reason]


@pytest.mark.realdata
def test_real_ml_latest_small(tmp_path: Path, real_data: Path) -> None:
    report = ingest(open_dataset("ml-latest-small", real_data / "ml-latest-small"), tmp_path / "tables")
    assert report.rows["ratings"] == 100_836
    assert (report.rows["users"], report.rows["items"], report.rows["tags"]) == (610, 9_742, 3_683)
    assert (report.warnings, dict(report.dropped)) == ((), {})
    items = {row[0]: row[2:4] for row in _rows(tmp_path / "tables", "items")}
    assert items[2571] == ("The Matrix", 1999)
    assert items[29] == ("The City of Lost Children (La Cité des enfants perdus)", 1995)
    assert items[171749] == ("Death Note: Desu nôto", 2006)


@pytest.mark.realdata
def test_real_ml_1m_in_part_is_ml_1m_with_a_warning(tmp_path: Path, real_data: Path) -> None:
    report = ingest(open_dataset("ml-1m", real_data / "ml-1m-timed"), tmp_path / "tables")
    ratings = read_table(tmp_path / "tables", "ratings")
    assert (ratings.num_rows, len(ratings["user_id"].unique())) == (643_995, 3_898)
    assert bool(np.all(np.diff(ratings["timestamp"].to_numpy()) >= 0))
    assert report.warnings == (
        "ml-1m has 1,000,209 ratings, these files have 643,995",
        "ml-1m has 6,040 users, these files have 3,898",
    )
    items = {row[0]: row[2:4] for row in _rows(tmp_path / "tables", "items")}
    assert items[73] == ("Les Misérables", 1995)


@pytest.mark.realdata
def test_real_ml_1m_whole(tmp_path: Path, real_data: Path) -> None:
    report = ingest(open_dataset("ml-1m", real_data / "ml-1m-rebuilt"), tmp_path / "tables")
    assert report.rows["ratings"] == 1_000_209
    assert (report.warnings, dict(report.dropped)) == ((), {})


LARGE = 10_000_000
INGEST_LARGE = """
import re, sys
from pathlib import Path
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.ingest import ingest
report = ingest(open_dataset("shop", Path(sys.argv[1])), Path(sys.argv[2]))
# VmHWM, not ru_maxrss: the latter starts at what the process that started this one had
peak = re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(report.rows["ratings"], report.rows["users"], peak)
"""


def _write_large(path: Path) -> None:
    """Ten million lines in random order of time; half of the users have names."""
    rng = np.random.default_rng(0)
    schema = pa.schema(
        [("user", pa.string()), ("item", pa.int64()), ("timestamp", pa.int64()), ("rating", pa.float64())]
    )
    with pyarrow.csv.CSVWriter(path, schema) as writer:
        for _ in range(LARGE // 1_000_000):
            users = pa.array(rng.integers(0, 200_000, 1_000_000))
            named = pc.binary_join_element_wise("user", users.cast(pa.string()), "-")
            keys = pc.if_else(pc.equal(pc.bit_wise_and(users, 1), 1), users.cast(pa.string()), named)
            items, times = rng.integers(0, 50_000, 1_000_000), rng.integers(10**9, 17 * 10**8, 1_000_000)
            ratings = rng.integers(1, 11, 1_000_000) / 2
            columns = [keys, pa.array(items), pa.array(times), pa.array(ratings)]
            writer.write_table(pa.table(columns, schema=schema))


@pytest.mark.slow
def test_ten_million_rows_fit_in_a_gibibyte(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    _write_large(tmp_path / "own" / "interactions.csv")
    command = [sys.executable, "-c", INGEST_LARGE, str(tmp_path / "own"), str(tmp_path / "tables")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    rows, users, peak = (int(word) for word in done.stdout.split())
    unit = 1 if sys.platform == "darwin" else 1024
    assert rows == LARGE
    assert users == 200_000
    assert peak * unit < 1 << 30
    ratings = pq.ParquetFile(table_path(tmp_path / "tables", "ratings"))
    assert ratings.metadata.num_rows == LARGE
    times = ratings.read(columns=["timestamp"])["timestamp"].to_numpy()
    assert bool(np.all(times[1:] >= times[:-1]))


def test_the_report_is_plain_json(tmp_path: Path) -> None:
    ingest(_own(tmp_path / "own", "user,item,timestamp\na,x,1\n"), tmp_path / "tables")
    content = json.loads((tmp_path / "tables" / "ingest.json").read_text("utf-8"))
    assert content["inputs"]["interactions.csv"]["bytes"] == 26
    assert len(content["inputs"]["interactions.csv"]["sha256"]) == 64
