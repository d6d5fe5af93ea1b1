"""`offline ingest`: tables, from raw files and from recorded events."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from offline.commands.verb import Verb
from offline.ingest.prepare import append_events, prepare_tables
from offline.workflow.config import OfflineConfig


class IngestConfig(OfflineConfig):
    """Turn raw files, or recorded events with --events, into tables."""

    main_settings = (
        "events",
        "events_from",
        "dataset",
        "rows",
        "data_dir",
        "metadata_file",
        "items_file",
        "max_bad_lines",
        "root",
        "config",
    )

    events: bool = Field(
        default=False, description="append the events that the gateway has recorded since the last ingest"
    )
    events_from: Path | None = Field(
        default=None,
        description="a gateway's events file to append, implies --events; by default the one that `serve` writes",
    )


def ingest(config: IngestConfig) -> None:
    """Raw files to tables; with `--events` recorded events are appended to them."""
    inputs = config.ingest_inputs
    prepare_tables(inputs)
    if config.events or config.events_from:
        append_events(inputs, config.events_from or inputs.events_file)


VERB = Verb(IngestConfig, ingest)
