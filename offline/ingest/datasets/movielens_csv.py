"""MovieLens as csv: ml-latest-small, ml-20m, ml-25m, ml-32m (UTF-8, header, comma)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from offline.ingest.datasets.container import FileContainer
from offline.ingest.datasets.delimited import read_delimited
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.layout import Column, Layout
from offline.ingest.datasets.records import DatasetSource, Facts, Rows
from offline.ingest.datasets.titles import split_titles

USER = Column("user", pa.int64(), ("userId",))
ITEM = Column("item", pa.int64(), ("movieId",))
TIMESTAMP = Column("timestamp", pa.int64())
RATINGS = Layout((USER, ITEM, Column("value", pa.float64(), ("rating",)), TIMESTAMP))
MOVIES = Layout((ITEM, Column("title", pa.string()), Column("genres", pa.string())))
TAGS = Layout((USER, ITEM, Column("tag", pa.string()), TIMESTAMP))
LINKS = Layout((ITEM, Column("imdb_id", pa.string(), ("imdbId",)), Column("tmdb_id", pa.int64(), ("tmdbId",))))


def with_years(table: pa.Table) -> pa.Table:
    """Movies with the year taken out of the title into a column of its own."""
    titles, years = split_titles(table["title"])
    position = table.column_names.index("title")
    return table.set_column(position, "title", titles).append_column("year", years)


class MovieLensCsv(DatasetSource):
    """ratings.csv and movies.csv; tags.csv and links.csv where they are there."""

    def __init__(self, name: str, container: FileContainer, facts: Facts) -> None:
        """Raises DataMissing unless the required files are there."""
        container.require(["ratings.csv", "movies.csv"])
        self.name, self.container, self.facts = name, container, facts

    def interactions(self, findings: Findings) -> Iterator[Rows]:
        with self.container.open("ratings.csv") as file:
            yield from read_delimited(file, RATINGS, findings)

    def items(self, findings: Findings) -> Iterator[Rows]:
        with self.container.open("movies.csv") as file:
            yield from read_delimited(file, MOVIES, findings, conversion=with_years)

    def tags(self, findings: Findings) -> Iterator[Rows]:
        yield from self._optional("tags.csv", TAGS, findings)

    def links(self, findings: Findings) -> Iterator[Rows]:
        yield from self._optional("links.csv", LINKS, findings)

    def _optional(self, name: str, layout: Layout, findings: Findings) -> Iterator[Rows]:
        if self.container.find(name) is None:
            findings.warn(f"{self.container.path}: no {name}; its table stays empty")
            return
        with self.container.open(name) as file:
            yield from read_delimited(file, layout, findings)

    def fingerprint(self) -> Mapping[str, Mapping[str, int | str]]:
        return self.container.fingerprint(["ratings.csv", "movies.csv", "tags.csv", "links.csv"])
