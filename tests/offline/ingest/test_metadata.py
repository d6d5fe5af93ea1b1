"""Metadata files are joined to the items of a data set that has none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.csv import write_csv

from offline.dataset.tables import SCHEMAS, read_table
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.ingest import ingest
from offline.ingest.metadata import Described
from recsys.errors import DataMalformed, DataMissing

EXTRAS = (
    "1::Toy Story::1995::G::22 Nov 1995::Animation, Comedy::John Lasseter::John Lasseter (story by), Joss Whedon "
    "(screenplay by)::Tom Hanks, Robert Downey, Jr.::A boy: his toys :: and a rival.::https://x/y\r\n"
    "73::Les Misérables::1995::N/A::N/A::Drama::Claude Lelouch, Li Wu(co-director)::N/A::N/A::N/A::N/A\r\n"
    "99::Nowhere::1999::R::01 Jan 1999::Drama::Nobody::N/A::N/A::Not in the set.::N/A\r\n"
)


OPINIONS = {"vote_average": [8.3, 5.9], "vote_count": [17_000, 90], "popularity": [98.5, 4.2], "revenue": [3e8, 7e7]}
"""What others thought of items 1 and 3, as exports of TMDb say it."""


def described(folder: Path, shipped: SimpleNamespace, name: str, file: Path) -> Described:
    files = shipped.dat if name == "ml-1m" else shipped.csv
    return Described(open_dataset(name, shipped.write_folder(folder / "raw", files)), file)


def people(tables: Path) -> list[tuple[int, str, str]]:
    return [(row["item_id"], row["role"], row["name"]) for row in read_table(tables, "item_people").to_pylist()]


def column(rows: Iterable[object], name: str) -> list[object]:
    return [value for part in rows for value in part.table[name].to_pylist()]  # type: ignore[attr-defined]


def test_extra_information_completes_movielens(tmp_path: Path, shipped: SimpleNamespace) -> None:
    file = tmp_path / "movies_extrainfos.dat"
    file.write_text(EXTRAS, "utf-8", newline="")
    source, tables = described(tmp_path, shipped, "ml-1m", file), tmp_path / "tables"
    report = ingest(source, tables)
    assert people(tables) == [
        (1, "director", "John Lasseter"),
        (1, "cast", "Tom Hanks"),
        (1, "cast", "Robert Downey, Jr."),
        (1, "writer", "John Lasseter"),
        (1, "writer", "Joss Whedon"),
        (73, "director", "Claude Lelouch"),
        (73, "director", "Li Wu"),
    ]
    assert read_table(tables, "item_texts").to_pylist() == [
        {"item_id": 1, "overview": "A boy: his toys :: and a rival."}
    ]
    items = read_table(tables, "items").to_pylist()
    assert [(row["title"], row["year"], row["released"]) for row in items[:2]] == [
        ("Toy Story", 1995, 816_998_400),
        ("Les Misérables", 1995, None),
    ]
    assert "metadata: movies_extrainfos.dat" in report.inputs
    assert {row["genre"] for row in read_table(tables, "item_genres").to_pylist()} >= {"Children's", "Musical"}


@pytest.mark.parametrize(
    "header", ["movieId,runtime,cast", "id,runtime,cast", "tmdb_id,runtime,cast", "imdb_id,runtime,cast"]
)
def test_items_are_found_by_their_ids_here_and_elsewhere(tmp_path: Path, shipped: SimpleNamespace, header: str) -> None:
    key = {"movieId": "1", "id": "862", "tmdb_id": "862.0", "imdb_id": "tt0114709"}[header.split(",")[0]]
    file = tmp_path / "movies.csv"
    file.write_text(f'{header}\n{key},81,"Tom Hanks, Tim Allen"\n{key},7,Twice\n555,0,Nobody\n')
    rows = list(described(tmp_path, shipped, "ml-latest-small", file).items(Findings()))
    assert column(rows, "runtime") == [81.0, None, None]
    assert column(rows, "cast") == [["Tom Hanks", "Tim Allen"], None, None]


def test_parquet_may_hold_lists_and_dates(tmp_path: Path, shipped: SimpleNamespace) -> None:
    file = tmp_path / "movies.parquet"
    table = {
        "movieId": [3, 2],
        "director": [["A", "B"], None],
        "release_date": ["1995-10-30", "soon"],
        "budget": [0, 5],
    }
    pq.write_table(pa.table(table), file)
    rows = list(described(tmp_path, shipped, "ml-latest-small", file).items(Findings()))
    assert column(rows, "directors") == [None, None, ["A", "B"]]
    assert column(rows, "released") == [None, None, 815_011_200]
    assert column(rows, "budget") == [None, 5.0, None]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_opinions_of_others_never_come_in(tmp_path: Path, shipped: SimpleNamespace, ending: str) -> None:
    """The tables, which everything is trained and described from, are those of a file without them."""
    plain = pa.table({"movieId": [1, 3], "runtime": [81.0, 90.0], "director": ["John Lasseter", "Claude Lelouch"]})
    opinionated = pa.table({**{name: plain[name] for name in plain.column_names}, **OPINIONS})
    tables = []
    for name, table in (("plain", plain), ("opinionated", opinionated)):
        file = tmp_path / f"{name}.{ending}"
        (write_csv if ending == "csv" else pq.write_table)(table, file)
        source = described(tmp_path / name, shipped, "ml-latest-small", file)
        assert not {column for rows in source.items(Findings()) for column in rows.table.column_names} & set(OPINIONS)
        ingest(source, tmp_path / name / "tables")
        tables.append({each: read_table(tmp_path / name / "tables", each) for each in SCHEMAS})
    assert tables[0] == tables[1]
    assert tables[0]["items"]["runtime"].to_pylist() == [81.0, None, 90.0]
    assert not {column for table in tables[1].values() for column in table.column_names} & set(OPINIONS)


def test_what_the_data_set_says_itself_stays(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "interactions.csv").write_text("user,item,timestamp\nann,a,1\nann,b,2\n")
    (raw / "items.csv").write_text("id,title,directors,runtime\na,A,Own One|Own Two,\nb,B,,50\n")
    file = tmp_path / "more.csv"
    file.write_text("item_id,director,runtime,overview\na,Other,90,Text of a\nb,Other,91,Text of b\n")
    rows = list(Described(open_dataset("own", raw), file).items(Findings()))
    assert column(rows, "directors") == [["Own One", "Own Two"], ["Other"]]
    assert column(rows, "runtime") == [90.0, 50.0]
    assert column(rows, "overview") == ["Text of a", "Text of b"]


def test_a_file_of_other_items_is_flagged(tmp_path: Path, shipped: SimpleNamespace) -> None:
    file, findings = tmp_path / "movies.csv", Findings()
    file.write_text("movieId,overview\n1000,A\n1001,B\n")
    list(described(tmp_path, shipped, "ml-latest-small", file).items(findings))
    assert findings.warnings == [f"{file}: none of its 2 items is an item of ml-latest-small"]


def test_unusable_files_are_refused_in_words(tmp_path: Path, shipped: SimpleNamespace) -> None:
    with pytest.raises(DataMissing, match=r"absent\.csv: no such file; name the metadata file"):
        described(tmp_path, shipped, "ml-1m", tmp_path / "absent.csv")
    file = tmp_path / "movies.csv"
    file.write_text("title,overview\nA,B\n")
    with pytest.raises(DataMissing, match="no column movieId, tmdb_id, id or imdb_id"):
        list(described(tmp_path, shipped, "ml-1m", file).items(Findings()))
    file.write_text("tmdb_id,overview\n1,B\n")
    with pytest.raises(DataMalformed, match="ml-1m has no links; add a column movieId"):
        list(described(tmp_path, shipped, "ml-1m", file).items(Findings()))
    file.write_text("movieId,overview\n")
    with pytest.raises(DataMissing, match="holds no row"):
        list(described(tmp_path, shipped, "ml-1m", file).items(Findings()))
