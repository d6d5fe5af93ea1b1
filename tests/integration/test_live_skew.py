"""`check-skew --live`: what a gateway has just answered is asked again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from offline.commands.cli import main
from offline.commands.live_requests import live_requests
from offline.workflow.workflow import Workflow
from recsys.bundle import Bundle
from recsys.config import ANSWERS_FILE, EVENTS_FILE
from recsys.errors import DataMalformed, DataMissing
from recsys.v1 import types_pb2
from recsys.v1.recommend_pb2 import Event, RecordEventsRequest
from tests.integration.live import CALL_SECONDS, System, system
from tests.waiting import eventually

pytestmark = [pytest.mark.integration]

COUNT = 5
NEW = "nobody before"


@dataclass(frozen=True)
class Traffic:
    """A running system that has answered two users, the first of them again after an event, and a new visitor."""

    bundle: Bundle
    folder: Path
    """Where the gateway keeps its events and answers."""
    rank: str
    users: tuple[int, int]
    rated: int
    """What the first user has rated in between."""


@pytest.fixture(scope="module")
def traffic(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    """See `Traffic`; its answers are in the log."""
    folder = tmp_path_factory.mktemp("live")
    store = trained.config.store("production")
    bundle = store.open(store.release().current)
    first, second = sorted(set(trained.split.dataset.interactions.user_ids.tolist()))[:2]
    with system(store.root.absolute(), folder) as running:
        rated = _talk(running, first, second, bundle.manifest.cutoff)
        found = Traffic(bundle, folder / "events", running.ports.target("rank"), (first, second), rated)
        eventually(lambda: _logged(found) == 4, "four answers are logged")
        yield found


def _talk(running: System, first: int, second: int, cutoff: int) -> int:
    """Returns the item that the first user has rated."""
    item = running.ask(user_id=first, count=COUNT).items[0].item_id
    running.ask(user_id=second, count=COUNT)
    running.ask(user_key=NEW, count=COUNT)
    running.ask(count=COUNT)  # nobody's: not a request of a user
    event = Event(
        event_id="1", user_id=first, item_id=item, type=types_pb2.EVENT_TYPE_RATING, value=5, time=cutoff + 60
    )
    running.gateway.RecordEvents(RecordEventsRequest(events=[event]), timeout=CALL_SECONDS)
    running.ask(user_id=first, count=COUNT)
    return int(item)


def _logged(traffic: Traffic, n: int = 10) -> int:
    try:
        return len(live_requests(traffic.bundle, traffic.folder, n, count=COUNT))
    except DataMissing:
        return 0


def test_requests_are_those_that_were_answered_latest_first(traffic: Traffic) -> None:
    (after, new, other, before) = live_requests(traffic.bundle, traffic.folder, 10, count=COUNT)
    cutoff, (first, second) = traffic.bundle.manifest.cutoff, traffic.users
    assert [request.user_id for request in (after, new, other, before)] == [first, None, second, first]
    assert [request.as_of for request in (after, new, other, before)] == [cutoff + 60, cutoff, cutoff, cutoff]
    assert (after.history.item_ids[-1], after.history.values[-1]) == (traffic.rated, 5)
    assert traffic.rated not in before.history.item_ids
    assert len(after.history) == len(before.history) + 1 > 1
    assert len(new.history) == 0
    assert [request.as_of for request in live_requests(traffic.bundle, traffic.folder, 1, count=COUNT)] == [cutoff + 60]


def test_a_sound_system_has_no_skew_in_what_it_answered(
    trained: Workflow, traffic: Traffic, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--dataset", trained.config.dataset, "--root", str(trained.config.root), "--rank", traffic.rank]
    main(["check-skew", *place, "--live-from", str(traffic.folder)])
    assert "no skew in 5 requests × " in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["check-skew", *place, "--live"])
    assert caught.value.code == 2
    assert f"{ANSWERS_FILE}: no such file" in capsys.readouterr().err


def test_without_an_answer_or_with_another_file_it_says_so(traffic: Traffic, tmp_path: Path) -> None:
    other = traffic.bundle.manifest.model_copy(update={"bundle_version": "another"})
    with pytest.raises(DataMissing, match="no answer to a user with bundle another"):
        live_requests(Bundle(traffic.bundle.folder, other), traffic.folder, 10, count=COUNT)
    (tmp_path / ANSWERS_FILE).write_text("no database")
    (tmp_path / EVENTS_FILE).write_text("no database")
    with pytest.raises(DataMalformed, match="cannot be read"):
        live_requests(traffic.bundle, tmp_path, 10, count=COUNT)
