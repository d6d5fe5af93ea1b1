"""The id of a request is in the log of every process that worked for it, whatever batch it was in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recsys.v1.recommend_pb2 import RecommendRequest
from tests.integration.live import CALL_SECONDS, ROLES, System, system
from tests.published import USERS
from tests.waiting import eventually

pytestmark = pytest.mark.integration

IDS = [f"request-{number}" for number in range(48)]


@pytest.fixture
def logging_all(checkerboard_store: Path, tmp_path: Path) -> Iterator[System]:
    settings = {"log-level": "INFO", "log-sample": "1"}
    with system(
        checkerboard_store, tmp_path, gateway_settings=settings, role_settings=dict.fromkeys(ROLES, settings)
    ) as running:
        yield running


def test_every_request_is_found_in_every_log(logging_all: System) -> None:
    asked = [
        logging_all.gateway.Recommend.future(
            RecommendRequest(user_id=1 + number % USERS, count=3),
            timeout=CALL_SECONDS,
            metadata=(("x-request-id", request_id),),
        )
        for number, request_id in enumerate(IDS)
    ]
    assert not any(call.result().degraded for call in asked)
    for role in ROLES:
        eventually(lambda role=role: set(IDS) <= named(logging_all, role), f"{role} has logged every request")
    sizes = [len(line["request_ids"]) for line in lines(logging_all, "rank") if "request_ids" in line]
    assert max(sizes) > 1, "requests that come at once share calls"
    assert sum(sizes) == len(IDS), "and each is in one line of the rank server"


def named(running: System, role: str) -> set[str]:
    """The requests that the log of a process names."""
    found = lines(running, role)
    return {one for line in found for one in (line.get("request_id"), *line.get("request_ids", ()))}


def lines(running: System, role: str) -> list[dict[str, Any]]:
    """What a process has logged about calls."""
    records = [json.loads(line) for line in running.log(role).splitlines() if line.startswith("{")]
    return [record for record in records if record["logger"] == "recsys.server.calls"]
