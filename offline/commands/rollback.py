"""`offline rollback`: back to the bundle before the current one."""

from __future__ import annotations

from pydantic import Field

from offline.commands.verb import Verb
from offline.publish.publish import rollback as release_previous
from offline.workflow.config import OfflineConfig, Purpose


class RollbackConfig(OfflineConfig):
    """Back to the bundle before the current one."""

    purpose: Purpose = Field(default="production", description="which bundles")


def rollback(config: RollbackConfig) -> None:
    """Releases the bundle before the current one."""
    release_previous(config.store(config.purpose))


VERB = Verb("release the bundle before the current one again", RollbackConfig, rollback)
