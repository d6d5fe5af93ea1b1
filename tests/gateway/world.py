"""A whole gateway in one process: its real servicer, harness and state, before fake channels and a fake ranker."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from gateway.api.servicer import GatewayServicer
from gateway.backends.backends import Backend, RankBackend, RecallBackend
from gateway.backends.workers import Workers
from gateway.bundle.hidden import HiddenItems
from gateway.config import GatewayConfig
from gateway.events.answers import AnswerLog
from gateway.events.recorder import EventLimits, EventRecorder
from gateway.events.sqlite_store import SQLiteEventStore
from gateway.rollout import Rollout
from gateway.serving import Serving, ServingFactory
from recsys.bundle import ServingPolicy
from recsys.errors import NotReady
from recsys.server.server import Server
from recsys.server.telemetry import Telemetry
from recsys.v1 import recommend_pb2, recommend_pb2_grpc, types_pb2
from tests.gateway.toy import CHANNELS, Clock, FakeProcess, running, write_bundle
from tests.waiting import PATIENCE_SECONDS


@dataclass
class Loaded:
    """The version that the gateway has loaded, set by hand."""

    current: Serving | None = None

    def __call__(self) -> Serving:
        if self.current is None:
            raise NotReady("the toy gateway has no bundle")
        return self.current


@dataclass
class World:
    """A running gateway, what it talks to, and a client's stub."""

    folder: Path
    processes: dict[str, FakeProcess]
    backends: list[Backend]
    stub: Any
    rollout: Rollout
    versions: Loaded
    factory: ServingFactory
    recorder: EventRecorder
    answers: AnswerLog
    hidden: HiddenItems
    telemetry: Telemetry
    clock: Clock
    channel: grpc.aio.Channel

    def publish(self, version: str, policy: ServingPolicy, *, watermarks: Mapping[str, int] | None = None) -> None:
        """Publishes a bundle, loads it, and lets the rollout look at it."""
        bundle = write_bundle(self.folder / "bundles", version, policy=policy, watermarks=watermarks)
        self.versions.current = self.factory.load(bundle)
        self.rollout.step()

    def hide(self, text: str) -> None:
        """Writes the file of hidden items."""
        (self.folder / "hidden.txt").write_text(text)
        self.hidden.refresh()

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample, 0 where there is none."""
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0


def toy_processes() -> dict[str, FakeProcess]:
    """Channels with lists of their own; the ranker's score is the id, of tt12 its last digits (992)."""
    return {
        "popularity": FakeProcess("popularity", item_ids=[3, 1, 2, 4, 5]),
        "itemcf": FakeProcess("itemcf", item_ids=[6, 5, 4], seed=1),
        "vector": FakeProcess("vector", item_ids=[7, 6, 8]),
        "rank": FakeProcess("rank"),
    }


@asynccontextmanager
async def gateway(folder: Path, bundle: ServingPolicy | None = None, **settings: Any) -> AsyncIterator[World]:
    """Starts everything; `bundle` is the policy of version v1, without one nothing is published.

    Limits are long unless `settings` say otherwise: a pause of this machine is no failure of a fake process.
    """
    async with AsyncExitStack() as stack:
        processes = toy_processes()
        for process in processes.values():
            await stack.enter_async_context(running(process))
        (folder / "hidden.txt").touch()
        patient = {"budget_seconds": 60.0, "probe_timeout_seconds": 60.0}
        config = GatewayConfig(**({"port": 0, "bundle_root": folder / "bundles"} | patient | settings))
        recall = [Workers([RecallBackend(name, processes[name].target, config)]) for name in CHANNELS]
        rank = Workers([RankBackend("rank", processes["rank"].target, config)])
        backends: list[Backend] = [*(one for channel in recall for one in channel.members), *rank.members]
        for backend in backends:
            stack.push_async_callback(backend.close)
        telemetry, hidden, clock = Telemetry.create(), HiddenItems(folder / "hidden.txt"), Clock()
        recorder = EventRecorder(SQLiteEventStore(folder / "events.sqlite"), EventLimits(60.0, 60.0))
        answers = AnswerLog(folder / "answers.sqlite", dropped=telemetry.answers_dropped.inc)
        stack.callback(recorder.close)
        stack.callback(answers.close)
        versions = Loaded()
        rollout = Rollout(versions, backends, timeout_seconds=config.rollout_timeout_seconds)
        numbers = itertools.count(1)
        servicer = GatewayServicer(
            config=config,
            rollout=rollout,
            backends=backends,
            recorder=recorder,
            answers=answers,
            telemetry=telemetry,
            own_status=lambda: types_pb2.ServingStatus(role="gateway"),
            clock=clock,
            new_request_id=lambda: f"answer-{next(numbers)}",
        )
        server = Server(config, telemetry, [servicer.service()])
        port = server.bind()
        await server.start()
        stack.push_async_callback(server.drain, 0.1)
        client = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        world = World(
            folder,
            processes,
            backends,
            recommend_pb2_grpc.RecommendationServiceStub(client),
            rollout,
            versions,
            ServingFactory(config, recall, rank, hidden, telemetry, recorder.log_id),
            recorder,
            answers,
            hidden,
            telemetry,
            clock,
            client,
        )
        if bundle is not None:
            world.publish("v1", bundle)
        yield world


async def recommend(world: World, **fields: Any) -> recommend_pb2.RecommendResponse:
    """Asks for recommendations as a client that has time."""
    request = recommend_pb2.RecommendRequest(**fields)
    response: recommend_pb2.RecommendResponse = await world.stub.Recommend(request, timeout=PATIENCE_SECONDS)
    return response


def ids(response: Any) -> list[int]:
    """The items of a response, best first."""
    return [item.item_id for item in response.items]


def stages(response: Any) -> dict[str, types_pb2.Stage]:
    """The stages of a response by name."""
    return {stage.name: stage for stage in response.stages}


def view(event_id: str, item_id: int, **fields: Any) -> recommend_pb2.Event:
    """User 4, unless `fields` name another by key, views an item."""
    who = {} if "user_key" in fields else {"user_id": 4}
    return recommend_pb2.Event(event_id=event_id, item_id=item_id, type=types_pb2.EVENT_TYPE_VIEW, **who, **fields)
