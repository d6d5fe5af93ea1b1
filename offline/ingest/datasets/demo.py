"""The built-in `demo` data set as a source: known films, synthetic users, no files of the user's and no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

import pyarrow as pa

from offline.ingest.datasets.container import fingerprint_of
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.records import DatasetSource, Rows
from offline.ingest.demo.catalogue import read_catalogue
from offline.ingest.demo.world import generate


class Demo(DatasetSource):
    """Ratings generated in memory; they are the same in every process."""

    name = "demo"

    def interactions(self, findings: Findings) -> Iterator[Rows]:  # noqa: ARG002
        world = generate(read_catalogue())
        columns = {
            "user": world.user_id,
            "item": world.item_id,
            "timestamp": world.timestamp,
            "value": world.value.astype("float64"),
        }
        yield Rows(pa.table(columns), "demo users", 1)

    def items(self, findings: Findings) -> Iterator[Rows]:  # noqa: ARG002
        films = read_catalogue()
        columns = {
            "item": films.item_id,
            "title": films.title,
            "year": films.year,
            "genres": films.genres,
            "directors": ["|".join(names) for names in films.director],
            "cast": ["|".join(names) for names in films.cast],
        }
        yield Rows(pa.table({name: pa.array(column) for name, column in columns.items()}), "demo films", 1)

    def fingerprint(self) -> Mapping[str, Mapping[str, int | str]]:
        with resources.as_file(resources.files("offline.ingest.demo")) as folder:
            files = sorted(path for path in Path(folder).iterdir() if path.suffix in {".py", ".csv"})
            return {path.name: fingerprint_of(path) for path in files}
