"""Every format yields the rows that its files say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.records import Rows
from offline.ingest.datasets.registry import NAMES, PUBLISHED, open_dataset
from offline.ingest.datasets.timestamps import to_seconds
from offline.ingest.datasets.titles import split_titles
from recsys.errors import DataMissing

Pack = Callable[..., Path]


def _read(parts: Iterable[Rows]) -> dict[str, list[Any]]:
    return pa.concat_tables([rows.table for rows in parts], promote_options="default").to_pydict()


@pytest.fixture(params=["folder", "zip"])
def packed(request: pytest.FixtureRequest, tmp_path: Path, shipped: SimpleNamespace) -> Pack:
    """Packs files as a folder or as a zip with a sub folder."""

    def pack(content: dict[str, bytes], inner: str = "ml") -> Path:
        if request.param == "zip":
            return shipped.write_zip(tmp_path / "set.zip", content, inner=inner)
        return shipped.write_folder(tmp_path / "set", content)

    return pack


def test_movielens_csv(packed: Pack, shipped: SimpleNamespace) -> None:
    source, findings = open_dataset("ml-latest-small", packed(shipped.csv)), Findings()
    assert _read(source.interactions(findings)) == {
        "user": [1, 1, 2],
        "item": [1, 3, 1],
        "value": [4.0, 4.5, 0.5],
        "timestamp": [964982703, 964981247, 1445714835],
    }
    assert _read(source.items(findings)) == {
        "item": [1, 2, 3],
        "title": ["Toy Story", "The American President", "Les Misérables"],
        "genres": ["Adventure|Animation|Children", "Comedy|Drama|Romance", "(no genres listed)"],
        "year": [1995, 1995, 1995],
    }
    assert _read(source.tags(findings))["tag"] == ['funny, "really"', "dark"]
    assert _read(source.links(findings)) == {"item": [1, 3], "imdb_id": ["0114709", "0112641"], "tmdb_id": [862, None]}
    assert list(source.users(findings)) == []
    assert findings.warnings == []


def test_movielens_1m(packed: Pack, shipped: SimpleNamespace) -> None:
    source, findings = open_dataset("ml-1m", packed(shipped.dat, "ml-1m")), Findings()
    assert _read(source.interactions(findings)) == {
        "user": [1, 1, 3],
        "item": [1193, 1, 1],
        "value": [5.0, 3.0, 4.0],
        "timestamp": [978300760, 978302109, 978301968],
    }
    items = _read(source.items(findings))
    assert items["title"] == ["Toy Story", "Les Misérables", "One Flew :: Over: the Cuckoo's Nest"]
    assert items["genres"] == ["Animation|Children's|Comedy", "Drama|Musical", "Drama"]
    assert _read(source.users(findings)) == {
        "user": [1, 2, 3],
        "gender": ["F", "M", "M"],
        "age": [1, 56, 25],
        "occupation": ["10", "16", "15"],
        "zip_code": ["48067", "70072", "55117-0001"],
    }
    assert findings.warnings == []


def test_movielens_10m(packed: Pack, shipped: SimpleNamespace) -> None:
    source, findings = open_dataset("ml-10m", packed(shipped.tenm, "ml-10M100K")), Findings()
    assert _read(source.interactions(findings))["value"] == [5.0, 4.5]
    assert _read(source.items(findings))["title"] == ["Boomerang", "La Cité"]
    assert _read(source.tags(findings)) == {
        "user": [15, 2],
        "item": [185, 122],
        "tag": ["excellent: really :: so!", "año"],
        "timestamp": [1215184630, 1188263867],
    }


def test_movielens_100k(packed: Pack, shipped: SimpleNamespace) -> None:
    source, findings = open_dataset("ml-100k", packed(shipped.k100, "ml-100k")), Findings()
    assert _read(source.interactions(findings)) == {
        "user": [196, 186, 196],
        "item": [242, 302, 302],
        "value": [3.0, 4.0, 1.0],
        "timestamp": [881250949, 891717742, 881250949],
    }
    assert _read(source.items(findings)) == {
        "item": [242, 302, 267],
        "title": ["Kolya", "L'Café (V)", "unknown"],
        "year": [1996, 1997, None],
        "genres": ["Comedy", "Crime|Drama|Film-Noir|Thriller", ""],
    }
    assert _read(source.users(findings))["occupation"] == ["executive", "writer"]


def test_demo_needs_no_files() -> None:
    source, findings = open_dataset("demo"), Findings()
    items, ratings = _read(source.items(findings)), _read(source.interactions(findings))
    assert len(items["item"]) >= 400
    assert len(ratings["user"]) >= 150_000
    assert len(set(ratings["user"])) >= 2_000
    assert set(ratings["item"]) <= set(items["item"])
    assert all(items["directors"])
    assert {"catalogue.csv", "world.py"} <= set(source.fingerprint())


OWN_CSV = b"userId,itemId,ts,rating\nann,tt1,100,4\nbob,7,200.9,\n007,tt1,1970-01-01T00:05:00Z,nan\n"


def test_own_csv_with_ratings(packed: Pack) -> None:
    items = b'id,title,genres,year,available_from\ntt1,"One, two\nthree",A|B,1999,\n7,Seven,,,1970-01-02\n'
    source, findings = open_dataset("shop", packed({"interactions.csv": OWN_CSV, "items.csv": items})), Findings()
    rows = _read(source.interactions(findings))
    assert rows["user"] == ["ann", "bob", "007"]
    assert rows["item"] == ["tt1", "7", "tt1"]
    assert rows["timestamp"] == [100, 200, 300]
    assert rows["type"] == [1, 2, 1]
    assert rows["value"][:2] == [4.0, None]
    assert _read(source.items(findings)) == {
        "item": ["tt1", "7"],
        "title": ["One, two\nthree", "Seven"],
        "genres": ["A|B", ""],
        "year": [1999, None],
        "available_from": [None, 86400],
    }


def test_own_csv_with_types_and_weights(packed: Pack) -> None:
    text = b"time,user,item,weight,type\n1,a,x,,like\n2,a,y,2.5,\n3,b,x,,7\n4,b,y,,smell\n5,c,x,1,View\n"
    source = open_dataset("interactions", packed({"interactions.csv": text}))
    rows = _read(source.interactions(Findings()))
    assert rows["type"] == [4, 2, 7, -1, 2]
    assert rows["value"] == [None, 2.5, None, None, 1.0]
    findings = Findings()
    assert list(source.items(findings)) == []
    assert "titles are the items' keys" in findings.warnings[0]


@pytest.mark.parametrize("kind", ["int64", "double", "string", "dictionary<values=string, indices=int32>"])
def test_own_parquet_takes_ids_of_any_kind(tmp_path: Path, kind: str) -> None:
    table = {"user_id": pa.array([3, 1, None]), "movieId": [5, 5, 6], "timestamp": [10, 20, 30], "unused": [1, 2, 3]}
    if kind.startswith("dictionary"):
        table["user_id"] = table["user_id"].cast("string").dictionary_encode()
    else:
        table["user_id"] = table["user_id"].cast(kind)
    pq.write_table(pa.table(table), tmp_path / "interactions.parquet")
    rows = _read(open_dataset("shop", tmp_path).interactions(Findings()))
    assert rows["user"] == ["3", "1", None]
    assert rows["item"] == ["5", "5", "6"]
    assert rows["timestamp"] == [10, 20, 30]
    assert rows["type"] == [2, 2, 2]


def test_own_parquet_with_times_and_genre_lists(packed: Pack, tmp_path: Path) -> None:
    times = pa.array([1_000, 2_999], pa.timestamp("ms", tz="Europe/Berlin"))
    pq.write_table(pa.table({"user": ["a", "b"], "item": ["x", "y"], "time": times}), tmp_path / "i.parquet")
    items = {"id": ["x", "y"], "title": ["X", None], "genres": pa.array([["A", "B"], None]), "year": [1999.0, None]}
    pq.write_table(pa.table(items), tmp_path / "t.parquet")
    content = {f"{stem}.parquet": (tmp_path / f"{stem[0] if stem[1] == 'n' else 't'}.parquet").read_bytes()
               for stem in ("interactions", "items")}  # fmt: skip
    source, findings = open_dataset("shop", packed(content)), Findings()
    assert _read(source.interactions(findings))["timestamp"] == [1, 2]
    assert _read(source.items(findings)) == {
        "item": ["x", "y"],
        "title": ["X", None],
        "genres": [["A", "B"], None],
        "year": [1999, None],
    }


@pytest.mark.parametrize(
    ("shipped", "title", "year"),
    [
        ("Matrix, The (1999)", "The Matrix", 1999),
        ("City of Lost Children, The (Cité des enfants perdus, La) (1995)",
         "The City of Lost Children (La Cité des enfants perdus)", 1995),
        ("Avventura, L' (Adventure, The) (1960)", "L'Avventura (The Adventure)", 1960),
        ("Postman, The (Postino, Il) (1994)", "The Postman (Il Postino)", 1994),
        ("Good, the Bad and the Ugly, The (1966)", "The Good, the Bad and the Ugly", 1966),
        ("Seven (a.k.a. Se7en) (1995)", "Seven (a.k.a. Se7en)", 1995),
        ("Death Note: Desu nôto (2006–2007)", "Death Note: Desu nôto", 2006),
        ("Land Before Time III (1995) (V)", "Land Before Time III", 1995),
        ("2001: A Space Odyssey (1968) ", "2001: A Space Odyssey", 1968),
        ("1984 (Nineteen Eighty-Four) (1984)", "1984 (Nineteen Eighty-Four)", 1984),
        ("Black Mirror", "Black Mirror", None),
        ("1900", "1900", None),
        ("", "", None),
    ],
)  # fmt: skip
def test_titles_read_as_people_write_them(shipped: str, title: str, year: int | None) -> None:
    titles, years = split_titles(pa.chunked_array([[shipped]]))
    assert (titles.to_pylist(), years.to_pylist()) == ([title], [year])


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (["1", " 20 ", ""], [1, 20, None]),
        (["1.9", "20"], [1, 20]),
        (["1970-01-02", "1970-01-01 00:01:00"], [86400, 60]),
        (["1970-01-01T02:00:00+02:00", "1970-01-01T00:00:01Z"], [0, 1]),
        ([], []),
    ],
)
def test_times_of_any_form_are_seconds(written: list[str], seconds: list[int | None]) -> None:
    assert to_seconds(pa.chunked_array([written], pa.string())).to_pylist() == seconds


@pytest.mark.parametrize(
    ("column", "seconds"),
    [
        (pa.array([1.9, None, float("nan")]), [1, None, None]),
        (pa.array([1, 2], pa.date32()), [86400, 172800]),
        (pa.array([1_999, None], pa.timestamp("ms")), [1, None]),
        (pa.array([7], pa.uint32()), [7]),
    ],
)
def test_times_of_any_type_are_seconds(column: pa.Array, seconds: list[int | None]) -> None:
    assert to_seconds(pa.chunked_array([column])).to_pylist() == seconds


@pytest.mark.parametrize("column", [pa.array(["soon"]), pa.array([True]), pa.array([float("inf")])])
def test_what_is_no_time_is_refused(column: pa.Array) -> None:
    with pytest.raises(pa.ArrowInvalid):
        to_seconds(pa.chunked_array([column]))


def test_fingerprints_change_with_the_content_only(tmp_path: Path, shipped: SimpleNamespace) -> None:
    first = open_dataset("ml-1m", shipped.write_folder(tmp_path / "a", shipped.dat)).fingerprint()
    same = open_dataset("ml-1m", shipped.write_folder(tmp_path / "b", {**shipped.dat, "README": b"x"})).fingerprint()
    other = open_dataset(
        "ml-1m", shipped.write_folder(tmp_path / "c", {**shipped.dat, "users.dat": b"x"})
    ).fingerprint()
    assert first == same
    assert first != other
    assert set(first) == {"ratings.dat", "movies.dat", "users.dat"}


def test_optional_files_may_be_absent(tmp_path: Path, shipped: SimpleNamespace) -> None:
    for name, content, required in (
        ("ml-25m", shipped.csv, 2),
        ("ml-1m", shipped.dat, 2),
        ("ml-100k", shipped.k100, 2),
    ):
        folder = shipped.write_folder(tmp_path / name, dict(list(content.items())[:required]))
        source, findings = open_dataset(name, folder), Findings()
        assert list(source.tags(findings)) == list(source.links(findings)) == list(source.users(findings)) == []
        assert findings.warnings
        assert str(folder) in findings.warnings[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "README").write_text("x")
    files = r"(ratings\.(csv|dat)|u\.data), (movies\.(csv|dat)|u\.item) missing; found README"
    with pytest.raises(DataMissing, match=files):
        open_dataset(name, tmp_path)


def test_names_and_places_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="no such folder or zip"):
        open_dataset("ml-1m", tmp_path / "nowhere")
    with pytest.raises(DataMissing, match="name the folder or zip that holds it"):
        open_dataset("ml-1m")
    with pytest.raises(DataMissing, match=r"ml-2m: no such data set.*ml-32m"):
        open_dataset("ml-2m", tmp_path)
    with pytest.raises(DataMissing, match=r"interactions\.csv missing"):
        open_dataset("interactions", tmp_path)
    assert NAMES[0] == "demo"
