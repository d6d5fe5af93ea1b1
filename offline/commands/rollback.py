"""`offline rollback`: back to the bundle before the current one."""

from __future__ import annotations

from pydantic import Field

from offline.commands.verb import Verb
from offline.publish.publish import rollback as release_previous
from offline.workflow.config import OfflineConfig, Purpose


class RollbackConfig(OfflineConfig):
    """Release the bundle before the current one again."""

    main_settings = (
        "purpose",
        "dataset",
        "root",
        "config",
    )

    purpose: Purpose = Field(default="production", description="which kind of bundle to roll back")


def rollback(config: RollbackConfig) -> None:
    """Releases the bundle before the current one."""
    release_previous(config.store(config.purpose))


VERB = Verb(RollbackConfig, rollback)
