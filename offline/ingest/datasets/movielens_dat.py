"""MovieLens with `::` between fields: ml-1m (Latin-1, users.dat) and ml-10m (UTF-8, tags.dat); no header, no quotes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from offline.ingest.datasets.container import FileContainer
from offline.ingest.datasets.delimited import read_delimited
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.layout import Column, Layout
from offline.ingest.datasets.movielens_csv import with_years
from offline.ingest.datasets.records import DatasetSource, Facts, Rows

USER, ITEM, TIMESTAMP = Column("user", pa.int64()), Column("item", pa.int64()), Column("timestamp", pa.int64())


def _layout(*columns: Column, free_text: str | None = None) -> Layout:
    return Layout(columns, separator="::", header=False, quoted=False, legacy_encoding=True, free_text=free_text)


RATINGS = _layout(USER, ITEM, Column("value", pa.float64()), TIMESTAMP)
MOVIES = _layout(ITEM, Column("title", pa.string()), Column("genres", pa.string()), free_text="title")
TAGS = _layout(USER, ITEM, Column("tag", pa.string()), TIMESTAMP, free_text="tag")
USERS = _layout(
    USER,
    Column("gender", pa.string()),
    Column("age", pa.int64()),
    Column("occupation", pa.string()),
    Column("zip_code", pa.string()),
)


class MovieLensDat(DatasetSource):
    """ratings.dat and movies.dat; users.dat or tags.dat, as the data set has it."""

    def __init__(self, name: str, container: FileContainer, facts: Facts) -> None:
        """Raises DataMissing unless the required files are there."""
        container.require(["ratings.dat", "movies.dat"])
        self.name, self.container, self.facts = name, container, facts

    def interactions(self, findings: Findings) -> Iterator[Rows]:
        with self.container.open("ratings.dat") as file:
            yield from read_delimited(file, RATINGS, findings)

    def items(self, findings: Findings) -> Iterator[Rows]:
        with self.container.open("movies.dat") as file:
            yield from read_delimited(file, MOVIES, findings, conversion=with_years)

    def tags(self, findings: Findings) -> Iterator[Rows]:
        if self.container.find("tags.dat") is None:
            if self.facts.tags:
                findings.warn(f"{self.container.path}: no tags.dat; its table stays empty")
            return
        with self.container.open("tags.dat") as file:
            yield from read_delimited(file, TAGS, findings)

    def users(self, findings: Findings) -> Iterator[Rows]:
        if self.container.find("users.dat") is None:
            if not self.facts.tags:
                findings.warn(f"{self.container.path}: no users.dat; users have no demographic columns")
            return
        with self.container.open("users.dat") as file:
            yield from read_delimited(file, USERS, findings)

    def fingerprint(self) -> Mapping[str, Mapping[str, int | str]]:
        return self.container.fingerprint(["ratings.dat", "movies.dat", "tags.dat", "users.dat"])
