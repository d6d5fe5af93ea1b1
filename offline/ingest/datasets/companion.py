"""A data set with a companion file that has more about its items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from offline.ingest.datasets.container import fingerprint_of
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.records import DatasetSource, Rows


class WithCompanionFile(DatasetSource):
    """Everything but the items is the data set's own; a subclass combines its items with the file's."""

    label: str
    """What the fingerprint calls the file."""

    def __init__(self, source: DatasetSource, file: Path) -> None:
        self._source, self._file = source, file
        self.name, self.facts = source.name, source.facts
        self.rating_range, self.requires_value = source.rating_range, source.requires_value

    def interactions(self, findings: Findings) -> Iterator[Rows]:
        return self._source.interactions(findings)

    def tags(self, findings: Findings) -> Iterator[Rows]:
        return self._source.tags(findings)

    def links(self, findings: Findings) -> Iterator[Rows]:
        return self._source.links(findings)

    def users(self, findings: Findings) -> Iterator[Rows]:
        return self._source.users(findings)

    def fingerprint(self) -> Mapping[str, Mapping[str, int | str]]:
        return {**self._source.fingerprint(), f"{self.label}: {self._file.name}": fingerprint_of(self._file)}
