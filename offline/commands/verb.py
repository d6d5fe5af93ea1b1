"""What the command line knows of a verb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from offline.workflow.config import OfflineConfig
from recsys.help import summary_of

Config = TypeVar("Config", bound=OfflineConfig)


@dataclass(frozen=True, slots=True)
class Verb(Generic[Config]):
    """One thing that `python -m offline` can do."""

    config: type[Config]
    """Its settings; the docstring says what the verb does, in one sentence."""
    run: Callable[[Config], None]

    @property
    def summary(self) -> str:
        """One line for lists of verbs, without the full stop."""
        return summary_of(self.config).removesuffix(".")
