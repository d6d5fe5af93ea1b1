"""The log of answers: complete where it can be, never in the way."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from gateway.events import batches
from gateway.events.answers import AnswerLog, LoggedAnswer
from recsys.bundle import RerankPolicy
from recsys.domain import Candidates
from recsys.v1 import recommend_pb2
from tests.gateway.toy import policy
from tests.gateway.world import World, gateway, ids, recommend
from tests.waiting import PATIENCE_SECONDS

DAY = 86_400


def answer(request_id: str, *, time: int = 1000) -> LoggedAnswer:
    candidates = Candidates.without_seeds(
        np.asarray([5, 3], np.int64),
        ("popularity", "itemcf"),
        np.asarray([[0.5, 0.0], [0.25, 0.75]], np.float32),
        np.asarray([[1, 0], [2, 4]], np.int32),
    )
    scores = np.asarray([0.5, 0.25], np.float32)
    return LoggedAnswer(request_id, "Recommend", "7", time, 900, "v1", "ranked", False, candidates, scores)


def logged(path: Path) -> list[sqlite3.Row]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        return connection.execute("SELECT * FROM answers ORDER BY row_id").fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("changes", "down", "order"),
    [
        ({}, False, "ranked"),
        ({}, True, "blended"),
        ({"ranking": "blended"}, False, "blended"),
        ({"rerank": RerankPolicy(diversity=1)}, False, "reranked"),
        ({"rerank": RerankPolicy(diversity=1)}, True, "reranked"),
    ],
)
async def test_the_log_says_which_order_was_served(
    changes: dict[str, Any], down: bool, order: str, tmp_path: Path
) -> None:
    async with gateway(tmp_path, policy().model_copy(update=changes)) as world:
        if down:
            world.processes["rank"].failure = grpc.StatusCode.UNAVAILABLE
        await world.stub.Recommend(recommend_pb2.RecommendRequest(user_id=4, count=3))
    (row,) = logged(tmp_path / "answers.sqlite")
    assert (row["policy"], row["degraded"]) == (order, int(down))


async def test_every_answer_is_logged_as_it_was_given(world: World) -> None:
    shown = await recommend(world, user_id=4, count=2)
    await world.stub.SimilarItems(recommend_pb2.SimilarItemsRequest(item_id=6, count=1))
    world.answers.close()
    connection = sqlite3.connect(world.folder / "answers.sqlite")
    rows = connection.execute("SELECT request_id, method, user_key, policy, items FROM answers").fetchall()
    connection.close()
    world.answers = type(world.answers)(world.folder / "again.sqlite", dropped=lambda n: None)
    assert [row[:4] for row in rows] == [
        (shown.request_id, "Recommend", "4", "ranked"),
        ("answer-2", "SimilarItems", "", "blended"),
    ]
    assert [item["item_id"] for item in json.loads(rows[0][4])] == ids(shown)


def test_an_answer_is_logged_with_positions_and_channels(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "answers.sqlite", dropped=lambda n: None)
    log.add(answer("a"))
    log.add(answer("b"))
    log.close()
    first, second = logged(tmp_path / "answers.sqlite")
    assert (first["request_id"], second["request_id"]) == ("a", "b")
    assert (first["user_key"], first["time"], first["as_of"], first["bundle_version"]) == ("7", 1000, 900, "v1")
    assert (first["method"], first["policy"], first["degraded"]) == ("Recommend", "ranked", 0)
    assert json.loads(first["items"]) == [
        {"item_id": 5, "position": 1, "score": 0.5, "channels": {"popularity": 1}},
        {"item_id": 3, "position": 2, "score": 0.25, "channels": {"popularity": 2, "itemcf": 4}},
    ]


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log writes nothing before all of them have come."""
    come = threading.Event()
    monkeypatch.setattr(batches, "time", SimpleNamespace(sleep=lambda seconds: come.wait(PATIENCE_SECONDS)))
    dropped: list[int] = []
    log = AnswerLog(tmp_path / "answers.sqlite", dropped=dropped.append, capacity=3)
    for n in range(20):
        log.add(answer(str(n)))
    come.set()
    log.close()
    assert sum(dropped) + len(logged(tmp_path / "answers.sqlite")) == 20
    assert sum(dropped) >= 16


def test_a_failing_disk_costs_answers_of_the_log_only(tmp_path: Path) -> None:
    dropped: list[int] = []
    log = AnswerLog(tmp_path / "answers.sqlite", dropped=dropped.append)
    log._connection.execute("DROP TABLE answers")
    log.add(answer("a"))
    log.close()
    assert dropped == [1]


def test_old_answers_go_away(tmp_path: Path) -> None:
    for request_id, time in (("old", 0), ("recent", 9 * DAY), ("new", 12 * DAY)):
        log = AnswerLog(tmp_path / "answers.sqlite", dropped=lambda n: None, keep_days=5)
        log.add(answer(request_id, time=time))
        log.close()
    assert [row["request_id"] for row in logged(tmp_path / "answers.sqlite")] == ["recent", "new"]
