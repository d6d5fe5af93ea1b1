from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.bundle import Bundle, BundleStore, golden
from recsys.errors import BundleMismatch, BundleMissing, NotReady
from recsys.server import versions as versions_module
from recsys.server.loading import is_loading
from recsys.server.telemetry import Telemetry
from recsys.server.versions import Versions
from recsys.testing import FakeChannel, release, write_bundle
from tests.waiting import PATIENCE_SECONDS

ROLE = "popularity"


class World:
    """A store and the versions of one role, stepped by hand."""

    def __init__(self, root: Path, load: Callable[[Bundle], FakeChannel] | None = None) -> None:
        self.root = root
        self.telemetry = Telemetry.create()
        self.loads: list[str] = []
        self.load = load or (lambda bundle: FakeChannel.load(bundle, ROLE))
        self.versions = Versions(
            BundleStore(root),
            ROLE,
            self._counted,
            check=lambda channel, bundle: golden.check_recall(bundle.folder, ROLE, channel.recall),
            telemetry=self.telemetry,
        )

    def _counted(self, bundle: Bundle) -> FakeChannel:
        self.loads.append(bundle.version)
        return self.load(bundle)

    def publish(self, current: str, previous: str | None = None) -> None:
        if not (self.root / current).exists():
            write_bundle(self.root, current)
        release(self.root, current, previous)

    def info(self) -> dict[str, str]:
        family = next(f for f in self.telemetry.registry.collect() if f.name == "recsys_bundle_info")
        return {sample.labels["version"]: sample.labels["state"] for sample in family.samples}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refusals(world: World) -> dict[str, str]:
    return {refused.bundle_version: refused.reason for refused in world.versions.status().refused_versions}


def test_a_missing_bundle_is_logged_once_and_again_when_the_cause_changes(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.versions.refresh()
    world.versions.refresh()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["popularity is not serving"]
    (world.root / "CURRENT").write_text("half a rel")
    world.versions.refresh()
    assert len(caplog.records) == 2
    with pytest.raises(NotReady, match=r"popularity has no bundle to serve: .*CURRENT: expected"):
        world.versions.active()


def test_a_published_bundle_becomes_active_and_the_one_before_it_stays_ready(world: World) -> None:
    world.publish("v1")
    world.versions.refresh()
    world.publish("v2", "v1")
    world.versions.refresh()
    assert world.versions.active().version == "v2"
    status = world.versions.status()
    assert (status.role, list(status.ready_versions), status.active_version) == (ROLE, ["v2", "v1"], "v2")
    assert world.info() == {"v1": "ready", "v2": "active"}
    assert world.loads == ["v1", "v2"]


def test_a_process_that_starts_late_holds_current_and_previous(world: World) -> None:
    world.publish("v1")
    world.publish("v2", "v1")
    world.versions.refresh()
    assert world.loads == ["v2", "v1"]
    assert world.versions.active().version == "v2"


def test_rollback_loads_nothing(world: World) -> None:
    world.publish("v1")
    world.publish("v2", "v1")
    world.versions.refresh()
    world.publish("v1", "v2")
    world.versions.refresh()
    assert world.versions.active().version == "v1"
    assert world.loads == ["v2", "v1"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_refused_while_the_old_version_goes_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.publish("v1")
    world.versions.refresh()
    write_bundle(world.root, "v2")
    flip(world.root / "v2" / ROLE / FakeChannel.FILE)
    world.publish("v2", "v1")
    world.versions.refresh()
    world.versions.refresh()
    assert world.versions.active().version == "v1"
    assert "scale.npy: sha256" in refusals(world)["v2"]
    assert world.info() == {"v1": "active", "v2": "refused"}
    assert [r.levelname for r in caplog.records if "v2 is refused" in r.getMessage()] == ["ERROR"]


def test_at_the_start_previous_stands_in_for_a_damaged_current(world: World) -> None:
    write_bundle(world.root, "v1")
    write_bundle(world.root, "v2")
    (world.root / "v2" / ROLE / FakeChannel.FILE).unlink()
    release(world.root, "v2", "v1")
    world.versions.refresh()
    assert world.versions.active().version == "v1"
    assert "missing" in refusals(world)["v2"]


def test_a_damaged_only_bundle_is_the_reason_for_not_serving(world: World) -> None:
    write_bundle(world.root, "v1")
    (world.root / "v1" / ROLE / FakeChannel.FILE).unlink()
    release(world.root, "v1")
    world.versions.refresh()
    with pytest.raises(BundleMissing, match=r"bundle v1 is refused: .*scale\.npy: missing"):
        world.versions.active()


def test_another_answer_to_a_golden_request_refuses(tmp_path: Path) -> None:
    world = World(tmp_path, lambda bundle: FakeChannel(FakeChannel.load(bundle, ROLE).catalogue, scale=2.0))
    world.publish("v1")
    world.versions.refresh()
    assert "golden/popularity.json: request 0: score 0 is 2, expected 1;" in refusals(world)["v1"]


def test_a_bundle_without_the_role_is_refused(world: World) -> None:
    write_bundle(world.root, "v1", roles=("itemcf",))
    world.publish("v1")
    world.versions.refresh()
    assert "no files for role 'popularity', only for itemcf" in refusals(world)["v1"]


def test_an_unexpected_error_of_a_loader_refuses_and_is_traced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(bundle: Bundle) -> FakeChannel:
        raise MemoryError("too big")

    world = World(tmp_path, explode)
    world.publish("v1")
    world.versions.refresh()
    assert refusals(world)["v1"].startswith("MemoryError: too big")
    assert any(record.exc_info for record in caplog.records)


def test_a_refused_version_is_tried_again_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish("v1")
    flip(world.root / "v1" / ROLE / FakeChannel.FILE)
    world.versions.refresh()
    flip(world.root / "v1" / ROLE / FakeChannel.FILE)
    world.versions.refresh()
    assert list(world.versions.status().ready_versions) == []
    monkeypatch.setattr(versions_module, "RETRY_SECONDS", 0.0)
    world.versions.refresh()
    assert world.versions.active().version == "v1"
    assert refusals(world) == {}
    assert world.info() == {"v1": "active"}


async def test_the_newest_version_on_disk_is_loaded_when_it_is_asked_for(world: World) -> None:
    world.publish("v1")
    world.versions.refresh()
    write_bundle(world.root, "v2")
    assert (await world.versions.resolve("")).version == "v1"
    assert (await world.versions.resolve("v2")).version == "v2"
    assert world.versions.find("v2") is not None
    assert world.versions.active().version == "v1"


def test_a_caller_cannot_load_what_is_neither_released_nor_the_newest(world: World) -> None:
    for version in ("v0", "v1", "v2", "v3", "v4"):
        write_bundle(world.root, version)
    world.publish("v2", "v1")
    for version in ("v0", "v3"):
        with pytest.raises(BundleMissing, match=f"has not loaded bundle {version}.* neither released nor newest"):
            world.versions.obtain(version)
    for version in ("v1", "v2", "v4"):
        assert world.versions.obtain(version).version == version


def test_a_load_is_announced_for_as_long_as_it_takes(tmp_path: Path) -> None:
    seen: list[bool] = []

    def load(bundle: Bundle) -> FakeChannel:
        seen.append(is_loading(os.getpid()))
        return FakeChannel.load(bundle, ROLE)

    world = World(tmp_path, load)
    world.publish("v1")
    world.versions.refresh()
    assert (world.loads, seen, is_loading(os.getpid())) == (["v1"], [True], False)


def test_a_version_that_is_asked_for_by_many_is_loaded_once(tmp_path: Path) -> None:
    entered = threading.Barrier(4)

    def load(bundle: Bundle) -> FakeChannel:
        threading.Event().wait(0.1)
        return FakeChannel.load(bundle, ROLE)

    world = World(tmp_path, load)
    write_bundle(world.root, "v0")

    def ask() -> None:
        entered.wait()
        assert world.versions.obtain("v0").version == "v0"

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.loads == ["v0"]


@pytest.mark.parametrize("version", ["v9", "../v1", "v1/../v1", ".hidden"])
def test_a_version_that_is_not_on_disk_is_answered_with_what_is_loaded(world: World, version: str) -> None:
    world.publish("v1")
    world.versions.refresh()
    with pytest.raises(BundleMissing, match=r"not on disk.*; loaded: v1"):
        world.versions.obtain(version)


def test_a_refused_version_that_is_requested_says_why(world: World) -> None:
    write_bundle(world.root, "v0")
    flip(world.root / "v0" / ROLE / FakeChannel.FILE)
    for _ in range(2):
        with pytest.raises(BundleMismatch, match=r"refuses bundle v0: .*scale\.npy: sha256"):
            world.versions.obtain("v0")
    assert world.loads == []


def test_versions_that_nobody_needs_are_retired(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for current, previous in (("v1", None), ("v2", "v1"), ("v3", "v2")):
        world.publish(current, previous)
        world.versions.refresh()
    assert world.versions.ready_versions() == ["v3", "v2", "v1"]
    kept = world.versions.find("v1")
    monkeypatch.setattr(versions_module, "LINGER_SECONDS", 0.0)
    world.versions.refresh()
    assert world.versions.ready_versions() == ["v3", "v2"]
    assert world.info() == {"v3": "active", "v2": "ready"}
    assert kept is not None
    assert kept.servable.scale == 1.0


def test_following_reports_readiness_and_survives_an_unreadable_root(tmp_path: Path) -> None:
    world, reports, ready = World(tmp_path / "bundles"), [], threading.Event()
    (tmp_path / "bundles").write_text("a file where a folder should be")

    def on_change(is_ready: bool) -> None:
        reports.append(is_ready)
        if is_ready:
            ready.set()
        elif len(reports) == 2:
            (tmp_path / "bundles").unlink()
            (tmp_path / "bundles").mkdir()
            world.publish("v1")

    world.versions.follow(0.01, on_change)
    assert ready.wait(PATIENCE_SECONDS)
    world.versions.close()
    assert reports[0] is False


def test_following_tells_when_versions_were_loaded_or_dropped_before_it_tells_that_one_is_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions_module, "LINGER_SECONDS", 0.0)
    world, told, done = World(tmp_path), [], threading.Event()
    releases = [("v1", None), ("v2", "v1"), ("v2", "v1"), ("v3", "v2")]

    def on_change(is_active: bool) -> None:
        told.append(is_active)
        if releases:
            world.publish(*releases.pop(0))
        else:
            done.set()

    world.versions.follow(0.01, on_change, lambda: told.append(world.versions.ready_versions()))
    assert done.wait(PATIENCE_SECONDS)
    world.versions.close()
    assert told[:8] == [False, ["v1"], True, ["v2", "v1"], True, True, ["v3", "v2"], True]


def test_each_step_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.publish("v1")
    with caplog.at_level(logging.INFO):
        world.versions.refresh()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "popularity: bundle v1: hashing and loading its files"
    assert lines[1].startswith("popularity: bundle v1 is ready after")
    assert lines[2] == "popularity: bundle v1 is active, after none"
