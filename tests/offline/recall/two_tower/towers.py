"""Configurations of towers that differ in a few settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offline.recall.two_tower.config import TwoTowerConfig


def varied(
    config: TwoTowerConfig,
    *,
    pooled: Mapping[str, Any] | None = None,
    sequence: Mapping[str, Any] | None = None,
    **shared: Any,
) -> TwoTowerConfig:
    """`config` with other settings, by section; an unknown name or a wrong value is refused."""
    values = config.model_dump() | shared
    values["pooled"] = values["pooled"] | dict(pooled or {})
    values["sequence"] = values["sequence"] | dict(sequence or {})
    return TwoTowerConfig(**values)
