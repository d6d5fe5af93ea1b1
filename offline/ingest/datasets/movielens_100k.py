"""ml-100k: u.data (tab), u.item and u.user ("|", Latin-1); no headers, no quotes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from offline.ingest.datasets.container import FileContainer
from offline.ingest.datasets.delimited import read_delimited
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.layout import Column, Layout
from offline.ingest.datasets.movielens_csv import with_years
from offline.ingest.datasets.records import DatasetSource, Facts, Rows

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""The flag columns of u.item, in order (u.genre); "unknown" is no genre."""

USER, ITEM = Column("user", pa.int64()), Column("item", pa.int64())
RATINGS = Layout(
    (USER, ITEM, Column("value", pa.float64()), Column("timestamp", pa.int64())),
    separator="\t",
    header=False,
    quoted=False,
)
MOVIES = Layout(
    (
        ITEM,
        *(Column(name, pa.string()) for name in ("title", "release_date", "video_release_date", "url")),
        *(Column(genre, pa.int8()) for genre in GENRES),
    ),
    separator="|",
    header=False,
    quoted=False,
    legacy_encoding=True,
)
USERS = Layout(
    (
        USER,
        Column("age", pa.int64()),
        *(Column(name, pa.string()) for name in ("gender", "occupation", "zip_code")),
    ),
    separator="|",
    header=False,
    quoted=False,
    legacy_encoding=True,
)


def genres_of_flags(table: pa.Table) -> pa.Table:
    """Movies with "A|B" genres instead of a flag per genre; the year is that of the title, else of the release."""
    named = [pc.if_else(pc.fill_null(pc.equal(table[genre], 1), False), f"|{genre}", "") for genre in GENRES[1:]]  # noqa: FBT003
    joined = pc.utf8_ltrim(pc.binary_join_element_wise(*named, ""), characters="|")
    movies = with_years(table.select(["item", "title"]))
    released = pc.struct_field(pc.extract_regex(table["release_date"], r"(?P<year>[0-9]{4})$"), "year")
    years = pc.coalesce(movies["year"], pc.cast(released, pa.int64()))
    return movies.set_column(2, "year", years).append_column("genres", joined)


class MovieLens100k(DatasetSource):
    """u.data and u.item; u.user where it is there."""

    def __init__(self, name: str, container: FileContainer, facts: Facts) -> None:
        """Raises DataMissing unless the required files are there."""
        container.require(["u.data", "u.item"])
        self.name, self.container, self.facts = name, container, facts

    def interactions(self, findings: Findings) -> Iterator[Rows]:
        with self.container.open("u.data") as file:
            yield from read_delimited(file, RATINGS, findings)

    def items(self, findings: Findings) -> Iterator[Rows]:
        with self.container.open("u.item") as file:
            yield from read_delimited(file, MOVIES, findings, conversion=genres_of_flags)

    def users(self, findings: Findings) -> Iterator[Rows]:
        if self.container.find("u.user") is None:
            findings.warn(f"{self.container.path}: no u.user; users have no demographic columns")
            return
        with self.container.open("u.user") as file:
            yield from read_delimited(file, USERS, findings)

    def fingerprint(self) -> Mapping[str, Mapping[str, int | str]]:
        return self.container.fingerprint(["u.data", "u.item", "u.user"])
