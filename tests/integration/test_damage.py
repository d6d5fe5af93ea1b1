"""No bundle, damaged bundles and half-written ones: refused with the reason, while the old one stays in service."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from offline.evaluation.open_loop import send_at_rate
from offline.publish.publish import rollback
from recsys.bundle import FORMAT_VERSION, BundleStore, Release
from recsys.bundle.manifest import MANIFEST_FILE
from recsys.bundle.store import RELEASE_FILE
from recsys.server import healthcheck
from recsys.v1.recommend_pb2 import Event, RecordEventsRequest
from recsys.v1.types_pb2 import EVENT_TYPE_CLICK, STAGE_STATUS_REFUSED
from tests.integration.live import (
    CALL_SECONDS,
    CHANGE_AT,
    RATE,
    ROLES,
    System,
    details,
    flip_bit,
    publish_again,
    request_of,
    stage,
    system,
    under_load,
)
from tests.waiting import eventually

pytestmark = pytest.mark.integration

ROLLOUT_SECONDS = 1.0
SETTINGS = {"rollout-timeout-seconds": str(ROLLOUT_SECONDS)}


@dataclass(frozen=True)
class Observed:
    """What the processes said while there was no bundle at all."""

    health: dict[str, str]
    refusal: grpc.RpcError
    recorded: int
    pids: tuple[dict[str, int], dict[str, int]]


def observe(running: System) -> Observed:
    """Five processes that have nothing to serve yet."""
    eventually(
        lambda: all(healthcheck.state(running.ports.target(role)) == "NOT_SERVING" for role in ROLES), "all are up"
    )
    before = running.cluster.pids()
    with pytest.raises(grpc.RpcError) as refusal:
        running.ask(user_id=0)
    event = Event(event_id="early", user_id=0, item_id=3, type=EVENT_TYPE_CLICK)
    recorded = running.gateway.RecordEvents(RecordEventsRequest(events=[event]), timeout=CALL_SECONDS).recorded
    health = {role: running.health(role) for role in ROLES}
    return Observed(health, refusal.value, recorded, (before, running.cluster.pids()))


@pytest.fixture(scope="module")
def started(checkerboard_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Observed]]:
    """Five servers that were started before anything was published, and then got a first bundle."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "bundles").mkdir()
    with system(folder / "bundles", folder, gateway_settings=SETTINGS, healthy=False) as running:
        observed = observe(running)
        release = BundleStore(checkerboard_store).release()
        shutil.copytree(checkerboard_store / release.current, folder / "bundles" / release.current)
        running.store.write_release(release)
        running.settle()
        yield running, observed


@pytest.fixture
def running(started: tuple[System, Observed]) -> Iterator[System]:
    """The servers on a good bundle; whatever a test released, the next one finds the good bundle served by all."""
    found, _ = started
    good = found.store.release().current
    yield found
    found.store.write_release(Release(good, None))
    eventually(lambda: found.all_active(good), "the good bundle is served again")


def test_without_a_bundle_all_stay_up_and_say_so(started: tuple[System, Observed]) -> None:
    _, observed = started
    assert observed.health == dict.fromkeys(ROLES, "NOT_SERVING")
    assert observed.pids[0] == observed.pids[1]
    assert set(observed.pids[0]) == set(ROLES)
    assert observed.refusal.code() is grpc.StatusCode.UNAVAILABLE
    assert "no bundle was published here; run `python -m offline run`" in details(observed.refusal)
    assert observed.recorded == 1


def test_the_first_bundle_is_served_by_the_same_processes(started: tuple[System, Observed]) -> None:
    running, observed = started
    assert running.cluster.pids() == observed.pids[0]
    response = running.ask(user_id=0)
    assert (response.bundle_version, response.degraded) == (running.store.release().current, False)
    assert len(response.items) == 10


def flipped(name: str) -> Callable[[Path], None]:
    """Harm: one bit of a file."""
    return lambda folder: flip_bit(folder / name)


def truncated(name: str) -> Callable[[Path], None]:
    """Harm: the last byte of a file is gone."""

    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1])

    return cut


@pytest.mark.parametrize(
    ("role", "name", "harm", "complaint"),
    [
        ("itemcf", "itemcf/weights.npy", flipped, "was changed"),
        ("vector", "vector/index.hnsw", truncated, "the manifest says"),
        ("rank", "rank/ranker.onnx", flipped, "was changed"),
    ],
    ids=["itemcf flipped", "vector truncated", "rank flipped"],
)
def test_a_damaged_file_costs_its_role_only_and_no_request(
    running: System, role: str, name: str, harm: Callable[[str], Callable[[Path], None]], complaint: str
) -> None:
    """Contract 10: what refuses holds the move up for the time-out, has no veto beyond it, and is degraded."""
    old = running.store.release().current

    def release() -> str:
        return publish_again(running.store, meddle=harm(name))

    def moved(version: str) -> bool:
        return running.status().gateway.active_version == version

    samples, new = asyncio.run(under_load(running, release, moved))
    assert [sample.error for sample in samples if sample.error] == []
    given = [(sample.due + sample.latency, sample.response) for sample in samples if sample.response is not None]
    assert {response.bundle_version for _, response in given} == {old, new}
    for answered, response in given:
        changed = response.bundle_version == new
        assert answered >= CHANGE_AT + ROLLOUT_SECONDS or not changed
        assert response.degraded == changed
        assert len(response.items) == 10
        refused = [entry for entry in response.stages if entry.status == STAGE_STATUS_REFUSED]
        assert [entry.name for entry in refused] == ([stage_of(role)] if changed else [])
        assert all(f"{new}/{name}" in entry.cause and complaint in entry.cause for entry in refused)
    refusals = running.refusals(new)
    assert set(refusals) == {role}
    assert f"{running.store.root / new / name}: " in refusals[role]
    assert "publish a new bundle or roll back with `python -m offline rollback`" in refusals[role]
    assert running.statuses()[role].active_version == old
    assert running.health(role) == "SERVING"
    rollback(running.store)
    eventually(lambda: running.all_active(old), "all serve the old bundle again")
    assert not running.ask(user_id=0).degraded


def stage_of(role: str) -> str:
    """The name of the stage that a process does."""
    return role if role == "rank" else f"recall:{role}"


def another_format(folder: Path) -> None:
    """Harm: a manifest of another software."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"format_version": 99}), encoding="utf-8")


def no_manifest(folder: Path) -> None:
    """Harm: a bundle that is written by halves."""
    (folder / MANIFEST_FILE).unlink()


def half_a_manifest(folder: Path) -> None:
    """Harm: a manifest that ends too early."""
    text = (folder / MANIFEST_FILE).read_text(encoding="utf-8")
    (folder / MANIFEST_FILE).write_text(text[: len(text) // 2], encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "roles", "complaint"),
    [
        (flipped("catalogue/years.npy"), ROLES, "catalogue/years.npy: sha256"),
        (flipped("gateway/popular_item_ids.npy"), ("gateway",), "gateway/popular_item_ids.npy: sha256"),
        (another_format, ROLES, f"bundle format 99, but this software reads format {FORMAT_VERSION}; publish again"),
        (no_manifest, ROLES, "on disk, only"),
        (half_a_manifest, ROLES, "manifest.json: not a JSON object"),
    ],
    ids=["catalogue", "gateway", "format", "no manifest", "half a manifest"],
)
def test_what_the_gateway_refuses_is_never_served(
    running: System, harm: Callable[[Path], None], roles: tuple[str, ...], complaint: str
) -> None:
    old = running.store.release().current
    new = publish_again(running.store, meddle=harm)
    eventually(lambda: set(running.refusals(new)) == set(roles), f"{roles} refuse it")
    assert all(complaint in reason for reason in running.refusals(new).values()), running.refusals(new)
    others_are_ready = roles != ROLES
    seconds = ROLLOUT_SECONDS + 1.0 if others_are_ready else 0.5
    requests = [request_of(number) for number in range(int(RATE * seconds))]
    samples = asyncio.run(send_at_rate(running.target, requests, rate=RATE, deadline_seconds=CALL_SECONDS))
    assert [sample.error for sample in samples if sample.error] == []
    given = [sample.response for sample in samples if sample.response is not None]
    assert {(response.bundle_version, response.degraded) for response in given} == {(old, False)}
    assert {running.health(role) for role in ROLES} == {"SERVING"}


def test_folders_that_were_never_released_are_not_looked_at(running: System) -> None:
    root = running.store.root
    (root / ".staging-1" / "itemcf").mkdir(parents=True)
    (root / ".staging-1" / "itemcf" / "weights.npy").write_bytes(b"half")
    (root / "99990101-000000-unfinished").mkdir()
    new = publish_again(running.store)
    eventually(lambda: running.all_active(new), "the next release is served next to half-written folders")
    assert running.refusals("99990101-000000-unfinished") == {}
    assert new in running.store.versions()
    assert not {".staging-1", "99990101-000000-unfinished"} & set(running.store.versions())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"current": "20000101-000000-nowhere", "previous": null}', "no bundle 20000101-000000-nowhere on disk, only"),
        ('{"current": ', "publish again"),
        ('{"current": "../elsewhere", "previous": null}', "'../elsewhere': expected 1 to 128 letters"),
        (None, "no bundle was published here"),
    ],
    ids=["missing version", "garbage", "path", "no file"],
)
def test_a_broken_release_file_changes_nothing(running: System, text: str | None, complaint: str) -> None:
    old = running.store.release().current
    known = {role: len(running.log(role)) for role in ROLES}
    path = running.store.root / RELEASE_FILE
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")
    eventually(lambda: all(complaint in running.log(role)[known[role] :] for role in ROLES), "all have said so")
    for user in range(5):
        response = running.ask(user_id=user)
        assert (response.bundle_version, response.degraded) == (old, False)
    assert running.all_active(old)
    assert stage(response, "rank").bundle_version == old
