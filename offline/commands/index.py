"""`offline index`: new items in the released bundle, without training."""

from __future__ import annotations

import time

from pydantic import Field

from offline.commands.output import say
from offline.commands.verb import Verb
from offline.indexing.job import add_items
from offline.workflow.config import OfflineConfig


class IndexConfig(OfflineConfig):
    """Add new items to the production bundle without training."""

    main_settings = (
        "as_of",
        "dataset",
        "data_dir",
        "items_file",
        "metadata_file",
        "root",
        "config",
        "max_bad_lines",
        "text.source",
        "keep_bundles",
    )

    as_of: int | None = Field(
        default=None, ge=0, description="add the items that are available by this time, in Unix seconds; by default now"
    )


def index(config: IndexConfig) -> None:
    """Prints how many items came in, and the version of the bundle that has them."""
    made = add_items(config, int(time.time()) if config.as_of is None else config.as_of)
    say(f"{made.new_items} new items in bundle {made.version}, {made.items} in all")


VERB = Verb(IndexConfig, index)
