"""The generated `synthetic` data set as a source: any number of ratings, written nowhere but into the tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path

import pyarrow as pa

from offline.ingest.datasets.container import fingerprint_of
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.records import DatasetSource, Facts, Rows
from offline.ingest.synthetic.shape import Shape
from offline.ingest.synthetic.world import SEED, SyntheticWorld


class Synthetic(DatasetSource):
    """`rows` ratings, the same in every process."""

    name = "synthetic"

    def __init__(self, rows: int) -> None:
        """Raises InvalidRequest for too few."""
        self._shape = Shape.of(rows)
        self.facts = Facts(rows, self._shape.users, self._shape.items)

    @cached_property
    def _world(self) -> SyntheticWorld:
        return SyntheticWorld(self._shape)

    def interactions(self, findings: Findings) -> Iterator[Rows]:  # noqa: ARG002
        first = 1
        for part in self._world.ratings():
            columns = {
                "user": part.user_ids,
                "item": part.item_ids,
                "timestamp": part.timestamps,
                "value": part.values,
            }
            yield Rows(pa.table(columns), "generated ratings", first)
            first += len(part.values)

    def items(self, findings: Findings) -> Iterator[Rows]:  # noqa: ARG002
        items = self._world.items
        columns = {
            "item": range(1, len(items) + 1),
            "title": items.titles(),
            "year": items.years,
            "genres": items.genre_names(),
        }
        yield Rows(pa.table({name: pa.array(column) for name, column in columns.items()}), "generated items", 1)

    def fingerprint(self) -> Mapping[str, Mapping[str, int | str]]:
        wanted = f"{SEED} {self._shape}".encode()
        with resources.as_file(resources.files("offline.ingest.synthetic")) as folder:
            files = sorted(path for path in Path(folder).iterdir() if path.suffix == ".py")
            found = {path.name: fingerprint_of(path) for path in files}
        return {"shape": {"bytes": len(wanted), "sha256": hashlib.sha256(wanted).hexdigest()}, **found}
