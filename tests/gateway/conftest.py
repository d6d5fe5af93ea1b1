"""The whole gateway, before fake channels and a fake ranker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.toy import policy
from tests.gateway.world import World, gateway


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A gateway that serves version v1 of the toy bundle."""
    async with gateway(tmp_path, policy()) as world:
        yield world
