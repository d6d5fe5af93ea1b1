"""Whatever a client sends, five real servers answer it or name what is wrong; so do servers that are set up wrongly."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.config import GatewayConfig
from offline.local.ports import HOST, free_ports
from recsys.config import PORTS
from recsys.domain import MAX_REQUEST_HISTORY
from recsys.server import healthcheck
from recsys.v1.recommend_pb2 import Event, RecommendRequest, RecordEventsRequest, SimilarItemsRequest, StatusRequest
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub
from recsys.v1.types_pb2 import (
    EVENT_TYPE_RATING,
    EVENT_TYPE_UNSPECIFIED,
    STAGE_STATUS_FAILED,
    STAGE_STATUS_OK,
    STAGE_STATUS_REFUSED,
    History,
    ItemFilter,
)
from tests.docs.pages import ROOT, blocks
from tests.integration.live import CALL_SECONDS, ROLES, System, details, item_ids, stage, system
from tests.published import ITEMS
from tests.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.integration

NAN, INFINITY = float("nan"), float("inf")
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
SERVICES = {
    "gateway": "recsys.v1.RecommendationService",
    "rank": "recsys.v1.RankService",
    **dict.fromkeys(("popularity", "itemcf", "vector"), "recsys.v1.RecallService"),
}
METHODS = {"gateway": "Recommend", "rank": "Rank", **dict.fromkeys(("popularity", "itemcf", "vector"), "Recall")}


@pytest.fixture(scope="module")
def running(checkerboard_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Five servers; no test of this module changes what another sees: one records an event, of user 1."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(checkerboard_store, folder / "bundles")
    with system(folder / "bundles", folder) as started:
        yield started


ANSWERED = [
    {"user_id": 999},
    {"user_key": "nobody has heard of me"},
    {"user_id": 1 << 60},
    {},
    {"user_id": 0, "history": History()},
    {"history": History(item_ids=[2, 2, 2, 999, -5], values=[4.0, NAN, 1.0, 5.0, NAN])},
    {"history": History(item_ids=[2] * MAX_REQUEST_HISTORY)},
    {"user_id": 0, "exclude_item_ids": [26, 26, 28, 999, -1, -1]},
    {"user_id": 0, "as_of": 0},
    {"user_id": 0, "as_of": (1 << 63) - 1},
    {"preferred_genres": ["Even", "Even"]},
]


@pytest.mark.parametrize("fields", ANSWERED, ids=lambda fields: str(fields)[:50].replace("\n", " "))
def test_odd_but_allowed_requests_are_answered_in_full(running: System, fields: dict[str, Any]) -> None:
    response = running.ask(count=10, **fields)
    found = item_ids(response)
    assert not response.degraded, response.stages
    assert len(found) == len(set(found)) == 10
    assert set(found) <= set(range(1, ITEMS + 1)) - set(fields.get("exclude_item_ids", ()))
    if "history" in fields:
        assert not set(found) & set(fields["history"].item_ids)


def test_strangers_and_anonymous_visitors_get_the_same_cold_answer(running: System) -> None:
    cold = item_ids(running.ask(count=20))
    assert item_ids(running.ask(count=20, user_id=999)) == cold
    assert item_ids(running.ask(count=20, user_key="nobody has heard of me")) == cold
    assert item_ids(running.ask(count=20, user_id=0, history=History())) == cold
    assert item_ids(running.ask(count=20, user_id=0)) != cold


def test_more_items_than_there_are_is_all_that_are_left(running: System) -> None:
    response = running.ask(user_id=0, count=500)
    unseen = {n for n in range(1, ITEMS + 1) if n % 2 == 0 or n == 1}
    assert set(item_ids(response)) == unseen
    nothing = running.ask(count=10, filter=ItemFilter(min_year=3000))
    assert (item_ids(nothing), nothing.degraded) == ([], False)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"count": 501}, "count: 501"),
    ({"user_id": -1}, "user_id: -1"),
    ({"user_key": ""}, "user_key: a key of 0 bytes"),
    ({"user_key": "two\nlines"}, "user_key: 'two\\nlines' contains a control character"),
    ({"as_of": -1}, "as_of: -1"),
    ({"exclude_item_ids": range(10_001)}, "exclude_item_ids: 10001"),
    ({"history": History(item_ids=range(MAX_REQUEST_HISTORY + 1))}, "history.item_ids: 2001 events, at most 2000"),
    ({"history": History(item_ids=[1, 2], timestamps=[1])}, "history.timestamps: 1 entries for 2"),
    ({"history": History(item_ids=[1], timestamps=[-1])}, "history.timestamps[0]: -1"),
    ({"history": History(item_ids=[1, 2], values=[4.0, INFINITY])}, "history.values[1]: inf"),
    ({"history": History(item_ids=[1], values=[-INFINITY])}, "history.values[0]: -inf"),
    ({"filter": ItemFilter(genres_any=["Opera"])}, "filter.genres_any: unknown genre 'Opera'"),
    ({"filter": ItemFilter(genres_none=["opera"])}, "filter.genres_none: unknown genre 'opera'"),
    ({"filter": ItemFilter(genres_any=["Odd"] * 201)}, "filter.genres_any: 201 names"),
    ({"filter": ItemFilter(min_year=2000, max_year=1999)}, "filter.min_year: 2000 is after max_year 1999"),
    ({"preferred_genres": ["Opera"]}, "preferred_genres: unknown genre 'Opera'"),
]


@pytest.mark.parametrize(("fields", "complaint"), REFUSED, ids=[complaint for _, complaint in REFUSED])
def test_a_bad_request_is_refused_by_the_name_of_its_field(
    running: System, fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        running.ask(**fields)
    assert caught.value.code() is INVALID
    assert details(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("fields", "code", "complaint"),
    [
        ({"item_id": 999}, NOT_FOUND, "item 999: bundle "),
        ({"item_key": "no such film"}, NOT_FOUND, "item 'no such film': bundle "),
        ({}, INVALID, "item: neither item_id nor item_key is set"),
        ({"item_id": -1}, INVALID, "item_id: -1"),
        ({"item_id": 1, "count": 501}, INVALID, "count: 501"),
        ({"item_id": 1, "filter": ItemFilter(genres_any=["Opera"])}, INVALID, "filter.genres_any: unknown genre"),
    ],
)
def test_bad_requests_for_similar_items_are_refused(
    running: System, fields: dict[str, Any], code: grpc.StatusCode, complaint: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        running.gateway.SimilarItems(SimilarItemsRequest(**fields), timeout=CALL_SECONDS)
    assert caught.value.code() is code
    assert details(caught.value).startswith(complaint)


def rating(**fields: Any) -> Event:
    known: dict[str, Any] = {"event_id": "e", "user_id": 0, "item_id": 1, "type": EVENT_TYPE_RATING, "value": 4.0}
    return Event(**(known | fields))


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (rating(value=NAN), "events[1].value: nan"),
        (rating(value=INFINITY), "events[1].value: inf"),
        (rating(value=None), "events[1].value: not set"),
        (rating(event_id=""), "events[1].event_id: 0 characters"),
        (rating(user_id=None), "events[1].user: neither"),
        (rating(item_id=None), "events[1].item: neither"),
        (rating(user_id=-1), "events[1].user_id: the served bundle has no key for -1"),
        (rating(type=EVENT_TYPE_UNSPECIFIED), "events[1].type: 0"),
        (rating(time=1 << 60), "events[1].time: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_bad_event_refuses_all_and_nothing_is_recorded(running: System, bad: Event, complaint: str) -> None:
    good = rating(event_id="never recorded", item_id=26)
    with pytest.raises(grpc.RpcError) as caught:
        running.gateway.RecordEvents(RecordEventsRequest(events=[good, bad]), timeout=CALL_SECONDS)
    assert caught.value.code() is INVALID
    assert details(caught.value).startswith(complaint)
    assert 26 in item_ids(running.ask(user_id=0))


def test_an_oversized_message_is_refused_and_the_connection_goes_on(running: System) -> None:
    limit = int(GatewayConfig.model_fields["max_message_mib"].default) << 20
    with pytest.raises(grpc.RpcError) as caught:
        running.ask(exclude_item_ids=[1 << 62] * (limit // 8))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(limit) in details(caught.value)
    assert len(running.ask().items) == 10


@pytest.mark.parametrize("role", ROLES)
def test_health_is_per_process_and_per_service(running: System, role: str) -> None:
    assert running.health(role) == "SERVING"
    assert running.health(role, SERVICES[role]) == "SERVING"
    assert running.health(role, "recsys.v1.NoService").startswith("NOT_FOUND")


@pytest.mark.parametrize("role", ROLES)
def test_reflection_resolves_methods(running: System, role: str) -> None:
    service, method = SERVICES[role], METHODS[role]
    requests = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{service}.{method}"),
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{service}.NoMethod"),
    ]
    with grpc.insecure_channel(running.ports.target(role)) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        found, listed, absent = stub.ServerReflectionInfo(iter(requests), timeout=CALL_SECONDS)
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(content)
        for content in found.file_descriptor_response.file_descriptor_proto
    ]
    methods = {
        f"{file.package}.{entry.name}.{each.name}" for file in files for entry in file.service for each in entry.method
    }
    assert f"{service}.{method}" in methods
    assert service in {entry.name for entry in listed.list_services_response.service}
    assert absent.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize(
    ("role", "module", "flags"),
    [
        ("gateway", "gateway", ()),
        ("itemcf", "recall_server", ("--channel", "itemcf")),
        ("rank", "rank_server", ()),
    ],
)
def test_a_second_server_on_a_port_exits_with_2_and_one_line(
    running: System, tmp_path: Path, role: str, module: str, flags: tuple[str, ...]
) -> None:
    port = running.ports.grpc[role]
    settings = ("--bundle-root", str(running.store.root), "--port", str(port), "--metrics-port", "0")
    files = ("--events-file", str(tmp_path / "e"), "--answers-file", str(tmp_path / "a")) if role == "gateway" else ()
    command = [sys.executable, "-m", module, *flags, *settings, *files, "--log-level", "ERROR"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if module in line]  # gRPC's core has a word of its own
    assert "Traceback" not in ended.stderr
    assert line.startswith(f"{module}: port {HOST}:{port}: in use")
    assert "stop the process that uses it, or set --port" in line
    assert running.health(role) == "SERVING"


def output_of_client(running: System, page: str) -> list[str]:
    """What the page's Python prints; only the port is another, and a busy machine has more time."""
    (client,) = [block.text for block in blocks("python") if block.page == ROOT / page]
    there = f"{HOST}:{PORTS['gateway']}"
    assert client.count(there) == 1
    client = re.sub(r"timeout=[\d.]+", f"timeout={CALL_SECONDS}", client.replace(there, running.target))
    ended = subprocess.run(
        [sys.executable, "-c", client],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_the_client_on_the_front_page_prints_the_answer(running: System) -> None:
    expected = running.ask(user_id=1, count=5)
    *shown, last = output_of_client(running, "README.md")
    assert len(expected.items) == 5
    assert shown == [
        f"{item.score:7.3f}  {item.title:<40}  {[reason.channel for reason in item.reasons]}" for item in expected.items
    ]
    assert last == f"bundle {expected.bundle_version} degraded False"


def test_the_client_on_the_page_of_the_api_prints_the_answer_and_records_an_event(running: System) -> None:
    """User 1 is no other test's business but the one's above, which asks again."""
    expected = running.ask(user_id=1, count=5)
    shown = output_of_client(running, "docs/reference/api.md")
    assert [line.partition(" [")[0] for line in shown] == [f"{item.score:.3f} {item.title}" for item in expected.items]
    assert expected.items[0].item_id not in item_ids(running.ask(user_id=1, count=5))


@contextmanager
def another_gateway(running: System, folder: Path, recall: dict[str, str]) -> Iterator[Any]:
    """A stub of one more gateway before the same servers, which it should find at `recall`."""
    (port,) = free_ports(1)
    settings = {
        "bundle-root": running.store.root,
        "port": port,
        "metrics-port": 0,
        "recall": ",".join(f"{name}={target}" for name, target in recall.items()),
        "rank": running.ports.target("rank"),
        "events-file": folder / "events.sqlite",
        "answers-file": folder / "answers.sqlite",
        "budget-seconds": 10,
        "log-level": "WARNING",
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    with (folder / "gateway.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "gateway", *flags], stderr=log)
    try:
        target = f"{HOST}:{port}"
        eventually(lambda: healthcheck.state(target) == "SERVING", "the other gateway serves")
        with grpc.insecure_channel(target) as channel:
            yield RecommendationServiceStub(channel)
    finally:
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0


def test_a_gateway_that_is_set_up_wrongly_says_what_is_where(running: System, tmp_path: Path) -> None:
    """popularity at the port of itemcf, itemcf where it is, vector nowhere."""
    itemcf = running.ports.target("itemcf")
    with another_gateway(running, tmp_path, {"popularity": itemcf, "itemcf": itemcf}) as stub:
        response = stub.Recommend(RecommendRequest(user_id=0, count=10, debug=True), timeout=CALL_SECONDS)
        wrong, right, absent = (stage(response, f"recall:{name}") for name in ("popularity", "itemcf", "vector"))
        assert wrong.status == STAGE_STATUS_REFUSED
        assert wrong.cause == f"{itemcf} is channel 'itemcf', expected 'popularity': check the ports"
        assert (right.status, right.candidates_out) == (STAGE_STATUS_OK, 1)
        assert absent.status == STAGE_STATUS_FAILED
        assert absent.cause == "no such channel is configured; add it to --recall"
        assert response.degraded
        assert len(response.items) == 10
        similar = stub.SimilarItems(SimilarItemsRequest(item_id=2, count=5), timeout=CALL_SECONDS)
        assert [entry.name for entry in similar.stages if entry.status != STAGE_STATUS_OK] == ["recall:vector"]

        def causes() -> dict[str, str]:
            return {
                backend.name: backend.cause for backend in stub.Status(StatusRequest(), timeout=CALL_SECONDS).backends
            }

        assert set(causes()) == {"popularity", "itemcf", "rank"}
        wrong_port = f"{itemcf} serves 'itemcf', not 'popularity': check the ports"  # known once it was probed
        eventually(lambda: causes()["popularity"] == wrong_port, "the gateway reports the server it found there")
    warnings = [json.loads(line)["message"] for line in (tmp_path / "gateway.log").read_text().splitlines()]
    assert any("no address of channel vector" in message for message in warnings)
