"""What the report shows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from offline.workflow.config import OfflineConfig, Purpose


class ReportConfig(OfflineConfig):
    """Draw pictures and tables of item and user vectors into one folder."""

    main_settings = (
        "purpose",
        "folder",
        "films",
        "neighbours",
        "clusters",
        "map_method",
        "map_items",
        "dataset",
        "root",
        "config",
    )

    purpose: Purpose = Field(
        default="evaluation", description="which kind of bundle to report on; the current one is used"
    )
    folder: Path | None = Field(
        default=None, description="folder for the report; by default report/ in the data set's folder"
    )
    films: int = Field(
        default=20, ge=1, le=60, description="number of best-known items to show with their neighbours and on the map"
    )
    neighbours: int = Field(default=6, ge=1, le=20, description="nearest items to list for each")
    clusters: int = Field(default=8, ge=2, le=12, description="number of user clusters")
    cold_events: int = Field(default=5, ge=1, description="items with fewer events are cold")
    map_method: Literal["tsne", "pca"] = Field(
        default="tsne", description="projection to two dimensions; pca is faster and shows less"
    )
    map_items: int = Field(
        default=4_000,
        ge=50,
        le=20_000,
        description="maximum number of items on the map: the best-known ones, and some cold ones",
    )
    report_seed: int = Field(default=1, ge=0, description="seed of the map, the clusters and the sampled pairs")
