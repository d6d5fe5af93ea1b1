"""When the gateway moves to the next bundle, and what cannot stop it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from gateway.backends.backends import Backend
from gateway.rollout import Rollout
from gateway.serving import Serving
from recsys.errors import BundleMissing
from tests.gateway.toy import Clock


@dataclass
class FakeServing:
    version: str
    backend_names: frozenset[str] = frozenset({"itemcf", "vector", "rank"})
    ranker_name: str = "rank"

    @property
    def known_names(self) -> frozenset[str]:
        return self.backend_names


@dataclass
class FakeBackend:
    name: str
    reachable: bool = True
    ready: tuple[str, ...] = ("v1",)
    refused: str = ""
    cause: str = ""
    wanted_version: str = ""

    def is_ready(self, version: str) -> bool:
        return self.reachable and version in self.ready

    def refusal(self, version: str) -> str:
        return self.refused if version == "v2" else ""


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.released: Serving | None = None
        self.itemcf, self.vector, self.rank = (FakeBackend(name) for name in ("itemcf", "vector", "rank"))
        backends = cast("list[Backend]", [self.itemcf, self.vector, self.rank])
        self.rollout = Rollout(self.current, backends, timeout_seconds=30, clock=self.clock)

    def current(self) -> Serving:
        if self.released is None:
            raise BundleMissing("nothing was published")
        return self.released

    def publish(self, version: str, **facts: Any) -> None:
        self.released = cast("Serving", FakeServing(version, **facts))

    def step(self, seconds: float = 0.0) -> str:
        self.clock.now += seconds
        self.rollout.step()
        return self.rollout.active.version if self.rollout.active is not None else ""


@pytest.fixture
def world() -> World:
    world = World()
    world.publish("v1")
    assert world.step() == "v1"
    world.publish("v2")
    return world


def test_nothing_is_active_before_anything_is_loaded_and_the_first_waits_for_nobody() -> None:
    world = World()
    for backend in (world.itemcf, world.vector, world.rank):
        backend.reachable = False
    assert world.step() == ""
    with pytest.raises(BundleMissing, match="nothing was published"):
        world.rollout.serving()
    world.publish("v1")
    assert world.step() == "v1"
    assert world.itemcf.wanted_version == "v1"


def test_processes_of_the_active_and_of_the_released_bundle_are_asked_and_no_others() -> None:
    world = World()
    assert world.rollout.used_names == frozenset()
    world.publish("v1", backend_names=frozenset({"itemcf", "rank"}))
    assert world.rollout.used_names == {"itemcf", "rank"}
    world.step()
    world.publish("v2", backend_names=frozenset({"vector", "rank"}))
    assert world.rollout.used_names == {"itemcf", "vector", "rank"}
    world.released = None
    assert world.rollout.used_names == {"itemcf", "rank"}


def test_it_moves_when_all_are_ready_and_not_before(world: World) -> None:
    for backend in (world.itemcf, world.vector, world.rank):
        assert world.step(1) == "v1"
        assert backend.wanted_version == "v1"
        backend.ready = ("v2", "v1")
    assert world.step(1) == "v2"
    assert world.rank.wanted_version == "v2"


def test_a_channel_that_cannot_be_reached_holds_nothing_up(world: World) -> None:
    world.vector.reachable = False
    world.itemcf.ready = world.rank.ready = ("v2",)
    assert world.step() == "v2"


@pytest.mark.parametrize("trouble", ["slow", "refusing", "no ranker"])
def test_nobody_has_a_veto_beyond_the_timeout(world: World, trouble: str) -> None:
    world.itemcf.ready = world.vector.ready = world.rank.ready = ("v2",)
    if trouble == "slow":
        world.itemcf.ready = ("v1",)
    elif trouble == "refusing":
        world.itemcf.ready, world.itemcf.refused = ("v1",), "a flipped bit"
    else:
        world.rank.reachable = False
    assert world.step() == "v1"
    assert world.step(29) == "v1"
    assert world.step(2) == "v2"


def test_a_newer_release_starts_the_wait_again(world: World) -> None:
    assert world.step() == "v1"
    assert world.step(29) == "v1"
    world.publish("v3")
    assert world.step(2) == "v1"
    assert world.step(30) == "v3"


def test_a_rollback_is_a_move_like_any_other(world: World) -> None:
    for backend in (world.itemcf, world.vector, world.rank):
        backend.ready = ("v2", "v1")
    assert world.step() == "v2"
    world.publish("v1")
    assert world.step() == "v1"


def test_a_ranker_that_the_policy_does_not_use_is_not_waited_for(world: World) -> None:
    world.publish("v2", backend_names=frozenset({"itemcf", "vector", ""}), ranker_name="")
    world.rank.reachable = False
    world.itemcf.ready = world.vector.ready = ("v2",)
    assert world.step() == "v2"


def test_of_several_rankers_one_that_cannot_be_reached_holds_nothing_up_and_one_that_loads_does() -> None:
    world = World()
    second = FakeBackend("rank", reachable=False)
    backends = cast("list[Backend]", [world.itemcf, world.vector, world.rank, second])
    world.rollout = Rollout(world.current, backends, timeout_seconds=30, clock=world.clock)
    world.publish("v1")
    assert world.step() == "v1"
    world.publish("v2")
    world.itemcf.ready = world.vector.ready = ("v2",)
    assert world.step() == "v1"
    world.rank.ready = ("v2",)
    second.reachable = True
    assert world.step() == "v1"
    second.reachable = False
    assert world.step() == "v2"
