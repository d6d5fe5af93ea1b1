"""What the command line knows of a verb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from offline.workflow.config import OfflineConfig

Config = TypeVar("Config", bound=OfflineConfig)


@dataclass(frozen=True, slots=True)
class Verb(Generic[Config]):
    """One thing that `python -m offline` can do."""

    summary: str
    """For `--help`: an imperative, without a full stop."""
    config: type[Config]
    run: Callable[[Config], None]
