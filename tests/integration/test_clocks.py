"""Time is an argument: five processes give the same bytes under every wall clock, unless the policy says `wall`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from offline.local.supervision import Program
from recsys.v1.recommend_pb2 import Event, RecommendRequest, RecordEventsRequest, SimilarItemsRequest
from recsys.v1.types_pb2 import EVENT_TYPE_RATING, History
from tests.integration.live import CALL_SECONDS, System, item_ids, publish_again, system
from tests.recall_server.toy import DAY, NOW
from tests.waiting import eventually

pytestmark = pytest.mark.integration

LAUNCHER = """
import runpy, sys, time, types
from pathlib import Path
from grpc import aio
from grpc._cython import cygrpc

sys.path[0] = ""  # what `-m` puts there
machine = types.SimpleNamespace(**vars(time))
aio._utils.time = cygrpc.time = machine
offset, module = Path(sys.argv.pop(1)), sys.argv.pop(1)
time.time = lambda: machine.time() + float(offset.read_text())
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Runs a server whose wall clock is ahead of the machine's by the seconds in a file, or behind where they are negative.

gRPC keeps the machine's: the two halves of its deadlines are on one clock, and its core does not read Python's.
"""

TEN_YEARS = 10 * 365 * DAY


@dataclass(frozen=True)
class Clocked:
    """Servers, and the file that says how far their wall clock runs ahead."""

    running: System
    offset: Path

    def set_ahead(self, seconds: int) -> None:
        """Sets the wall clock of all five processes, in one rename; negative: behind the machine's."""
        written = self.offset.with_suffix(".new")
        written.write_text(str(seconds))
        written.replace(self.offset)


@pytest.fixture(scope="module")
def clocked(checkerboard_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocked]:
    """Five servers on a wall clock that the tests set."""
    folder = tmp_path_factory.mktemp("clocks")
    shutil.copytree(checkerboard_store, folder / "bundles")
    (folder / "offset").write_text("0")
    (folder / "launch.py").write_text(LAUNCHER)

    def launch(program: Program) -> Program:
        dash_m, *rest = program.arguments
        assert dash_m == "-m"
        return replace(program, arguments=(str(folder / "launch.py"), str(folder / "offset"), *rest))

    with system(folder / "bundles", folder, launch=launch) as running:
        yield Clocked(running, folder / "offset")


def answer(running: System, **fields: Any) -> bytes:
    """What an answer says, but for its name; what it took is left out of it by asking without `debug`."""
    response = running.gateway.Recommend(RecommendRequest(**fields), timeout=CALL_SECONDS)
    assert (response.degraded, len(response.items)) == (False, 20)
    response.ClearField("request_id")
    encoded: bytes = response.SerializeToString(deterministic=True)
    return encoded


QUESTIONS: list[dict[str, Any]] = [
    {"user_id": 0},
    {"user_id": 7},
    {},
    {"history": History(item_ids=[2, 4], values=[4.0, 5.0])},
    {"history": History(item_ids=[2, 4], timestamps=[NOW - 40 * DAY, NOW - DAY])},
    {"history": History(item_ids=[26, 28], timestamps=[NOW, int(time.time()) + TEN_YEARS // 2])},
]
"""In the last one an event is yet to come on some wall clocks, and in the past on the latest."""


def walls() -> tuple[int, ...]:
    """Seconds ahead: before user 0's first event, amid the stored histories, now (after the cut-off), in ten years."""
    cutoff = NOW - int(time.time())
    return cutoff - 200 * DAY, cutoff - 40 * DAY, 0, TEN_YEARS


def distinct_answers(clocked: Clocked, **fields: Any) -> set[bytes]:
    """The answers under all wall clocks."""
    answers = set()
    for seconds in walls():
        clocked.set_ahead(seconds)
        answers.add(answer(clocked.running, count=20, **fields))
    return answers


@pytest.mark.parametrize("fields", QUESTIONS, ids=["warm", "another", "anonymous", "sent", "with times", "to come"])
def test_the_cutoff_clock_and_as_of_do_not_know_the_wall(clocked: Clocked, fields: dict[str, Any]) -> None:
    assert len(distinct_answers(clocked, **fields)) == 1
    for moment in (NOW - 30 * DAY, NOW, NOW + 30 * DAY):
        assert len(distinct_answers(clocked, as_of=moment, **fields)) == 1


def test_similar_items_do_not_know_the_wall(clocked: Clocked) -> None:
    answers = []
    for seconds in walls():
        clocked.set_ahead(seconds)
        response = clocked.running.gateway.SimilarItems(SimilarItemsRequest(item_id=2, count=10), timeout=CALL_SECONDS)
        assert not response.degraded
        answers.append(item_ids(response))
    assert answers == [answers[0]] * len(answers)


def unseen_by_user_0(moment: int) -> set[int]:
    """User 0 rated item n + 1 at 80 - n days before the cut-off, for even n."""
    return set(range(1, 81)) - {n + 1 for n in range(2, 80, 2) if NOW - (80 - n) * DAY <= moment}


def test_as_of_hides_what_came_later(clocked: Clocked) -> None:
    """Half a history, half the seen items; also where the wall clock stands still earlier or later."""
    for seconds in walls():
        clocked.set_ahead(seconds)
        found = item_ids(clocked.running.ask(user_id=0, count=80, as_of=NOW - 40 * DAY))
        assert set(found) == unseen_by_user_0(NOW - 40 * DAY)


def test_under_the_wall_policy_the_wall_decides_only_where_the_request_names_no_moment(clocked: Clocked) -> None:
    """The events that a client sends without a time are the proof that the servers' clock is the one that was set."""
    running = clocked.running
    version = publish_again(running.store, serving_clock="wall", ranking="blended")
    eventually(lambda: running.all_active(version), "the policy is served")
    clocked.set_ahead(TEN_YEARS)
    event = Event(event_id="later", user_key="ada", item_id=2, type=EVENT_TYPE_RATING, value=4.0)
    assert running.gateway.RecordEvents(RecordEventsRequest(events=[event]), timeout=CALL_SECONDS).recorded == 1
    assert 2 not in item_ids(running.ask(user_key="ada", count=80))
    clocked.set_ahead(0)
    assert 2 in item_ids(running.ask(user_key="ada", count=80))
    for seconds in walls():
        clocked.set_ahead(seconds)
        found = item_ids(running.ask(user_id=0, count=80))
        assert set(found) == unseen_by_user_0(int(time.time()) + seconds)
    in_ten_years = int(time.time()) + TEN_YEARS + 60
    assert len(distinct_answers(clocked, user_key="ada", as_of=in_ten_years)) == 1
    for fields in QUESTIONS:
        assert len(distinct_answers(clocked, as_of=NOW, **fields)) == 1
