"""What ingest is asked to read, and the folders that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from offline.ingest.datasets.registry import SYNTHETIC
from recsys.config import EVENTS_FILE


@dataclass(frozen=True, slots=True)
class IngestInputs:
    """The raw data of one data set, and the data root below which its tables are written."""

    dataset: str
    root: Path
    data_dir: Path | None = None
    """Folder or zip of the raw files; None: downloaded, or generated."""
    metadata_file: Path | None = None
    items_file: Path | None = None
    max_bad_lines: int = 0
    rows: int = 0
    """Ratings of `synthetic`."""

    @property
    def home(self) -> Path:
        """The folder of the data set below the data root; `synthetic` has one for each number of ratings."""
        return self.root / (f"{SYNTHETIC}-{self.rows}" if self.dataset == SYNTHETIC else self.dataset)

    @property
    def tables(self) -> Path:
        """Where ingest writes."""
        return self.home / "tables"

    @property
    def events_file(self) -> Path:
        """Where the gateway of `serve` records events."""
        return self.home / "events" / EVENTS_FILE
