"""Input that cannot be used: each kind is named, with its place and what to do, and nothing is lost."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offline.dataset.tables import read_table
from offline.ingest.datasets.blocks import read_blocks
from offline.ingest.datasets.container import DataFile, FileContainer
from offline.ingest.datasets.delimited import read_delimited
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.own import ITEMS
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.ingest import ingest
from offline.ingest.report import IngestReport
from recsys.errors import DataError, DataMalformed, DataMissing, DataTruncated

HEADER = b"user,item,timestamp,rating\n"
GOOD = b"".join(b"u%d,i%d,%d,4.5\n" % (n, n, 10**9 + n) for n in range(20))


def _own(tmp_path: Path, content: bytes, *, max_bad_lines: int = 0, items: bytes | None = None) -> IngestReport:
    folder = tmp_path / "own"
    folder.mkdir(exist_ok=True)
    (folder / "interactions.csv").write_bytes(content)
    if items is not None:
        (folder / "items.csv").write_bytes(items)
    return ingest(open_dataset("shop", folder), tmp_path / "tables", max_bad_lines=max_bad_lines)


def _shipped(tmp_path: Path, shipped: SimpleNamespace, name: str, **changed: bytes) -> IngestReport:
    dataset = {"csv": "ml-32m", "dat": "ml-1m", "tenm": "ml-10m", "k100": "ml-100k"}[name]
    files = {**getattr(shipped, name), **{file.replace("_", "."): content for file, content in changed.items()}}
    return ingest(open_dataset(dataset, shipped.write_folder(tmp_path / "ml", files)), tmp_path / "tables")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"a,x,1\n", "3 fields, expected 4 separated by ','"),
        (b"a,x,1,5,6\n", "5 fields, expected 4"),
        (b"a,x,1,five\n", "'five' in column rating is not a number"),
        (b"a,x,soon,5\n", "not a time in Unix seconds or ISO 8601"),
        (b"caf\xe9,x,1,5\n", "byte 0xe9 at position 4 is not UTF-8, expected UTF-8; as Latin-1 it reads 'café,x,1,5'"),
        (b'a,"x,1,5\n', "a quote is opened and never closed in 'a,\"x,1,5'"),
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: bytes, why: str) -> None:
    content = HEADER + GOOD + line + GOOD.replace(b"u", b"v")
    with pytest.raises(DataMalformed) as caught:
        _own(tmp_path, content)
    message = str(caught.value)
    assert f"{tmp_path}/own/interactions.csv:22: " in message
    assert why in message
    assert "--max-bad-lines N" in message
    report = _own(tmp_path, content, max_bad_lines=1)
    assert report.rows["ratings"] == 40
    assert report.bad_lines.count == 1
    assert report.bad_lines.examples[0].startswith(f"{tmp_path}/own/interactions.csv:22: ")


def test_bad_lines_are_counted_up_to_the_limit(tmp_path: Path) -> None:
    content = HEADER + b"x\n" + GOOD + b"y\n" + GOOD.replace(b"u", b"v") + b"z,z\n"
    assert _own(tmp_path, content, max_bad_lines=3).bad_lines.count == 3
    with pytest.raises(
        DataMalformed, match=r"csv:44: 2 fields.*more than --max-bad-lines 2 allows; the first was .*csv:2:"
    ):
        _own(tmp_path, content, max_bad_lines=2)


def test_lines_swallowed_by_a_quote_count_as_lines(tmp_path: Path) -> None:
    content = HEADER + GOOD + b'a,"x,1,5\nb,x,1,5\nc,x",1,5,6\n' + GOOD.replace(b"u", b"v")
    report = _own(tmp_path, content, max_bad_lines=3)
    assert (report.bad_lines.count, report.rows["ratings"]) == (3, 40)


def test_blank_lines_are_no_lines(tmp_path: Path) -> None:
    assert _own(tmp_path, HEADER + b"\n" + GOOD + b"\r\n\n" + GOOD.replace(b"u", b"v") + b"\n\n").rows["ratings"] == 40


def test_a_utf8_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    assert _own(tmp_path, b"\xef\xbb\xbf" + HEADER + GOOD).rows["ratings"] == 20


@pytest.mark.parametrize("cut", range(2, 26))
def test_a_csv_cut_short_is_truncated_or_warned_of(tmp_path: Path, cut: int) -> None:
    """Wherever the file is cut: never silently."""
    whole = HEADER.replace(b",rating", b"") + b"".join(b"user%d,item%d,%d\n" % (n, n, 10**9 + n) for n in range(5))
    cut_short = whole[:-cut]
    if cut_short.endswith(b"\n"):
        assert _own(tmp_path, cut_short).rows["ratings"] == 4
    elif whole[len(cut_short) :].startswith(b"\n"):
        assert "has no line end" in _own(tmp_path, cut_short).warnings[0]
    else:
        with pytest.raises(DataTruncated, match=r"interactions\.csv:[56]: the file ends .* again"):
            _own(tmp_path, cut_short)


def test_a_last_line_without_line_end_is_read_with_a_warning(tmp_path: Path) -> None:
    report = _own(tmp_path, HEADER + GOOD.rstrip(b"\n"))
    assert report.rows["ratings"] == 20
    assert report.warnings[0].endswith("csv:21: the last line has no line end; check that the file is complete")


def test_an_incomplete_last_line_is_truncated_even_where_bad_lines_are_allowed(tmp_path: Path) -> None:
    with pytest.raises(DataTruncated, match=r"csv:22: the file ends inside its last line \(2 fields, expected 4"):
        _own(tmp_path, HEADER + GOOD + b"a,b", max_bad_lines=9)


@pytest.mark.parametrize("cut", [1, 5, 9, 11, 14])
@pytest.mark.parametrize(("name", "file"), [("dat", "ratings.dat"), ("k100", "u.data"), ("csv", "ratings.csv")])
def test_movielens_ratings_cut_short(tmp_path: Path, shipped: SimpleNamespace, name: str, file: str, cut: int) -> None:
    content = getattr(shipped, name)[file].rstrip(b"\r\n")
    with pytest.raises(DataTruncated, match=rf"{file}:[34]: the file ends"):
        _shipped(tmp_path, shipped, name, **{file.replace(".", "_"): content[:-cut]})


@pytest.mark.parametrize("size", [0, 5])
def test_an_empty_file_is_truncated(tmp_path: Path, size: int) -> None:
    with pytest.raises(DataTruncated, match=r"csv is empty; expected|csv:1: the file ends inside its header 'user,'"):
        _own(tmp_path, HEADER[:size])


def test_a_file_with_a_header_only_has_no_interaction(tmp_path: Path) -> None:
    with pytest.raises(DataMalformed, match="not one valid interaction; dropped: nothing, the file has no rows"):
        _own(tmp_path, HEADER)


@pytest.mark.parametrize(("separator", "name"), [(b";", "semicolon"), (b"\t", "tab"), (b"|", r"'\|'"), (b"::", "'::'")])
def test_a_wrong_separator_is_named(tmp_path: Path, separator: bytes, name: str) -> None:
    with pytest.raises(DataMalformed, match=rf"csv:1: columns are separated by {name}, expected comma; found 'user"):
        _own(tmp_path, (HEADER + GOOD).replace(b",", separator))


def test_a_wrong_separator_in_a_file_without_header_is_named(tmp_path: Path, shipped: SimpleNamespace) -> None:
    with pytest.raises(
        DataMalformed, match=r"ratings\.dat:1: fields are separated by tab, expected '::'; found '1\\t1193"
    ):
        _shipped(tmp_path, shipped, "dat", ratings_dat=shipped.dat["ratings.dat"].replace(b"::", b"\t"))
    with pytest.raises(DataMalformed, match=r"u\.data:1: fields are separated by comma, expected tab"):
        _shipped(tmp_path, shipped, "k100", u_data=shipped.k100["u.data"].replace(b"\t", b","))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ((HEADER + GOOD).decode().encode("utf-16"), "found UTF-16 text; convert it: iconv"),
        (
            (HEADER + GOOD).decode().encode("utf-16-le"),
            "csv:1: expected text in UTF-8, separated by comma; found a zero byte",
        ),
        (b"\x1f\x8b\x08rest", "found a gzip archive; unpack it first"),
        (b"PK\x03\x04rest", "found a zip archive"),
        (b"PAR1rest", "found a Parquet file; give its name the ending .parquet"),
        (HEADER + GOOD + b"a\0b,x,1,5\n", "csv:22: expected text in UTF-8, separated by comma; found a zero byte"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    with pytest.raises(DataMalformed) as caught:
        _own(tmp_path, content)
    assert found in str(caught.value)


def test_latin1_where_utf8_belongs_is_named(tmp_path: Path, shipped: SimpleNamespace) -> None:
    latin = shipped.csv["movies.csv"].decode("utf-8").encode("latin-1")
    with pytest.raises(DataMalformed, match=r"movies\.csv:4: byte 0xe9 .* not UTF-8, expected UTF-8.*iconv -f LATIN1"):
        _shipped(tmp_path, shipped, "csv", movies_csv=latin)


def test_a_converted_copy_of_a_latin1_file_is_read_right(tmp_path: Path, shipped: SimpleNamespace) -> None:
    _shipped(tmp_path, shipped, "dat", movies_dat=shipped.dat["movies.dat"].decode("latin-1").encode("utf-8"))
    assert "Les Misérables" in read_table(tmp_path / "tables", "items")["title"].to_pylist()


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    expected = r"interactions\.csv: no column timestamp or ts or time; its first line names user, item, rating"
    with pytest.raises(DataMissing, match=expected):
        _own(tmp_path, b"user,item,rating\na,x,5\n")
    with pytest.raises(DataMissing, match=r"items\.csv: no column title or name"):
        _own(tmp_path, HEADER + GOOD, items=b"id,genres\nx,A\n")


def test_a_file_without_header_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"no column user .*; its first line names u0, i0, 1000000000, 4\.5"):
        _own(tmp_path, GOOD)


def test_movielens_with_a_value_of_another_scale_is_listed(tmp_path: Path, shipped: SimpleNamespace) -> None:
    report = _shipped(
        tmp_path, shipped, "dat", ratings_dat=b"1::1::5::978300760\n1::2::9::978300760\n-4::1::5::978300760\n"
    )
    assert report.rows["ratings"] == 1
    assert report.dropped["ratings: rating is not in [0.5, 5]"].count == 1
    assert report.dropped["ratings: user id is not in [0, 2^53)"].examples[0].endswith("dat:3: -4,1,5.0,978300760")


def _zip(tmp_path: Path, shipped: SimpleNamespace) -> Path:
    rows = b"".join(b"%d,%d,4.0,%d\n" % (n, n, 10**9 + n) for n in range(5_000))
    files = {**shipped.csv, "ratings.csv": b"userId,movieId,rating,timestamp\n" + rows}
    path = shipped.write_zip(tmp_path / "ml.zip", files, inner="ml-32m")
    assert isinstance(path, Path)
    return path


def test_a_zip_cut_short_is_truncated(tmp_path: Path, shipped: SimpleNamespace) -> None:
    path = _zip(tmp_path, shipped)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataTruncated, match=r"ml\.zip: not a complete zip .*; download it again"):
        open_dataset("ml-32m", path)


def test_a_damaged_member_of_a_zip_is_truncated(tmp_path: Path, shipped: SimpleNamespace) -> None:
    path = _zip(tmp_path, shipped)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("ml-32m/ratings.csv")
    content = bytearray(path.read_bytes())
    middle = member.header_offset + member.compress_size // 2
    content[middle : middle + 8] = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    path.write_bytes(content)
    with pytest.raises(DataTruncated, match=r"ml\.zip!ml-32m/ratings\.csv: the zip is damaged"):
        ingest(open_dataset("ml-32m", path), tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_a_file_that_is_no_zip_is_truncated(tmp_path: Path) -> None:
    (tmp_path / "ml-1m.zip").write_text("<html>404</html>")
    with pytest.raises(DataTruncated, match="not a complete zip"):
        open_dataset("ml-1m", tmp_path / "ml-1m.zip")


def test_a_zip_without_the_files_is_missing(tmp_path: Path, shipped: SimpleNamespace) -> None:
    path = shipped.write_zip(tmp_path / "x.zip", {"movies.dat": b"x"}, inner="ml-1m")
    with pytest.raises(DataMissing, match=r"x\.zip: ratings\.dat missing; found ml-1m/README\.txt, ml-1m/movies\.dat"):
        open_dataset("ml-1m", path)


def _parquet(tmp_path: Path, table: dict[str, object]) -> Path:
    pq.write_table(pa.table(table), tmp_path / "interactions.parquet")
    return tmp_path / "interactions.parquet"


def test_a_parquet_file_cut_short_is_truncated(tmp_path: Path) -> None:
    path = _parquet(tmp_path, {"user": ["a"], "item": ["x"], "timestamp": [1]})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataTruncated, match=r"interactions\.parquet: the Parquet file is not complete"):
        ingest(open_dataset("shop", tmp_path), tmp_path / "tables")


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "interactions.parquet").write_bytes(HEADER)
    with pytest.raises(DataMalformed, match="expected Parquet, found a file that begins with b'user'"):
        ingest(open_dataset("shop", tmp_path), tmp_path / "tables")


def test_a_parquet_file_without_a_column_is_named(tmp_path: Path) -> None:
    _parquet(tmp_path, {"user": ["a"], "item": ["x"]})
    with pytest.raises(DataMissing, match="no column timestamp or ts or time; its columns are user, item"):
        ingest(open_dataset("shop", tmp_path), tmp_path / "tables")


@pytest.mark.parametrize("column", [{"timestamp": ["soon"]}, {"user": [[1]]}, {"user": [1.5]}, {"rating": [[1.0]]}])
def test_a_parquet_column_of_an_unusable_type_is_named(tmp_path: Path, column: dict[str, object]) -> None:
    _parquet(tmp_path, {"user": ["a"], "item": ["x"], "timestamp": [1], **column})
    with pytest.raises(DataMalformed, match=r"interactions\.parquet:1: rows cannot be read"):
        ingest(open_dataset("shop", tmp_path), tmp_path / "tables")


def test_every_message_is_a_data_error(tmp_path: Path) -> None:
    """Random bytes are refused in words, whatever they are."""
    for seed in range(40):
        content = bytes((seed * 31 + n * n * 7) % 256 for n in range(200))
        with pytest.raises(DataError):
            _own(tmp_path, HEADER + content)


@pytest.mark.parametrize("block_bytes", [16, 32, 64, 1 << 20])
def test_blocks_of_any_size_give_the_same_rows_and_lines(tmp_path: Path, block_bytes: int) -> None:
    text = 'id,title\n1,"a\nb"\n2,c\n3,"say ""x"""\nbroken\n4,d\n'
    (tmp_path / "items.csv").write_text(text)
    findings = Findings(max_bad_lines=1)
    with FileContainer(tmp_path).open("items.csv") as file:
        parts = list(read_delimited(file, ITEMS, findings, block_bytes=block_bytes))
    assert [title for rows in parts for title in rows.table["title"].to_pylist()] == ["a\nb", "c", 'say "x"', "d"]
    assert findings.bad_lines.examples[0].startswith(f"{tmp_path}/items.csv:6: ")
    assert parts[-1].place(0).endswith(":7")


def test_a_quote_that_never_closes_does_not_swallow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'1,"a\n' + b"2,b\n" * 1_000)
    with path.open("rb") as stream:
        blocks = list(read_blocks(DataFile("x", 0, stream), quoted=True, block_bytes=64))
    assert blocks[0].data == b'1,"a\n'
    assert [block.first_line for block in blocks[:2]] == [1, 2]
    assert b"".join(block.data for block in blocks) == path.read_bytes()
