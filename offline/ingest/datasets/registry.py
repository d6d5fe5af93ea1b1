"""Which data sets there are, where they come from, how large they should be, and what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from offline.ingest.datasets.container import FileContainer
from offline.ingest.datasets.demo import Demo
from offline.ingest.datasets.movielens_100k import MovieLens100k
from offline.ingest.datasets.movielens_csv import MovieLensCsv
from offline.ingest.datasets.movielens_dat import MovieLensDat
from offline.ingest.datasets.own import OwnInteractions
from offline.ingest.datasets.records import DatasetSource, Facts
from offline.ingest.datasets.synthetic import Synthetic
from recsys.errors import DataMissing

BASE_URL = "https://files.grouplens.org/datasets/movielens/"
"""GroupLens publishes <name>.zip here, and its md5 checksum as <name>.zip.md5."""


@dataclass(frozen=True)
class PublishedDataset:
    """A data set that its owner offers for download."""

    reader: Callable[[str, FileContainer, Facts], DatasetSource]
    facts: Facts


PUBLISHED: dict[str, PublishedDataset] = {
    "ml-latest-small": PublishedDataset(MovieLensCsv, Facts(100_836, 610, 9_742, 3_683)),
    "ml-100k": PublishedDataset(MovieLens100k, Facts(100_000, 943, 1_682)),
    "ml-1m": PublishedDataset(MovieLensDat, Facts(1_000_209, 6_040, 3_883)),
    "ml-10m": PublishedDataset(MovieLensDat, Facts(10_000_054, 69_878, 10_681, 95_580)),
    "ml-20m": PublishedDataset(MovieLensCsv, Facts(20_000_263, 138_493, 27_278, 465_564)),
    "ml-25m": PublishedDataset(MovieLensCsv, Facts(25_000_095, 162_541, 62_423, 1_093_360)),
    "ml-32m": PublishedDataset(MovieLensCsv, Facts(32_000_204, 200_948, 87_585, 2_000_072)),
}
"""Facts as the README of each set states them: ratings, users who rated, movies, tags."""

DEMO = "demo"
SYNTHETIC = "synthetic"
GENERATED = (DEMO, SYNTHETIC)
"""Data sets that need no files."""
OWN = "interactions"
NAMES = (*GENERATED, *PUBLISHED, OWN)
"""Every data set that can be named."""


def open_dataset(name: str, path: Path | None = None, *, rows: int = 0) -> DatasetSource:
    """The data set `name` in the folder or zip `path`; those of `GENERATED` need none, `synthetic` has `rows` ratings.

    Any name that is not in `NAMES` stands for the user's own interactions, if `path` holds some. Raises DataMissing for
    an unknown name, or where a file is not there.
    """
    if name == DEMO:
        return Demo()
    if name == SYNTHETIC:
        return Synthetic(rows)
    if path is None:
        raise DataMissing(f"{name}: name the folder or zip that holds it; known data sets are {', '.join(NAMES)}")
    container = FileContainer(path)
    if name in PUBLISHED:
        return PUBLISHED[name].reader(name, container, PUBLISHED[name].facts)
    own = any(container.find(f"interactions.{ending}") for ending in ("csv", "parquet"))
    if name != OWN and not own:
        raise DataMissing(
            f"{name}: no such data set, and {path} holds neither interactions.csv nor interactions.parquet; "
            f"known data sets are {', '.join(NAMES)}"
        )
    return OwnInteractions(name, container)
