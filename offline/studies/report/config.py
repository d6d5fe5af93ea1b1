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

    purpose: Purpose = Field(default="evaluation", description="which bundle: the current one of this purpose")
    folder: Path | None = Field(
        default=None, description="where the report is written; absent: report/ below the data set's folder"
    )
    films: int = Field(default=20, ge=1, le=60, description="most known items, shown with neighbours and on the map")
    neighbours: int = Field(default=6, ge=1, le=20, description="nearest items listed of each")
    clusters: int = Field(default=8, ge=2, le=12, description="groups of users")
    cold_events: int = Field(default=5, ge=1, description="an item with fewer events is cold")
    map_method: Literal["tsne", "pca"] = Field(
        default="tsne", description="how vectors become two dimensions; pca is quick and shows less"
    )
    map_items: int = Field(
        default=4_000, ge=50, le=20_000, description="most items on the map: the most known ones, and some of the cold"
    )
    report_seed: int = Field(default=1, ge=0, description="of the map, the groups and the pairs that are drawn")
