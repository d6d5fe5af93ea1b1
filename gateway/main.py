"""The gateway process: parse, load, build, serve, drain."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Sequence
from functools import partial

from gateway import background
from gateway.api.servicer import GatewayServicer
from gateway.backends.backends import Backend, RankBackend, RecallBackend
from gateway.backends.workers import Workers
from gateway.bundle.gateway_golden import check_gateway
from gateway.bundle.hidden import HiddenItems
from gateway.config import RANKER, GatewayConfig, split_targets
from gateway.events.answers import AnswerLog
from gateway.events.claim import Claim
from gateway.events.recorder import EventLimits, EventRecorder
from gateway.events.sqlite_store import SQLiteEventStore
from gateway.rollout import Rollout
from gateway.serving import Serving, ServingFactory
from recsys.bundle import Bundle, BundleStore
from recsys.server.server import Process, Service, run
from recsys.server.versions import Versions

PROGRAM = "gateway"
ROLE = "gateway"

_TICK_SECONDS = 0.25
"""How often the gateway checks whether it may move to the next bundle, and whether the hidden items have changed."""


async def build(config: GatewayConfig, process: Process) -> Sequence[Service]:
    """Everything between the configuration and the service; see `recsys.server.server.serve`."""
    hidden = HiddenItems(config.hidden_items, config.hidden_items_seconds)
    recorder, answers = _open_files(config, process)
    recall, rank = _connect(config)
    backends: list[Backend] = [*(one for channel in recall for one in channel.members), *rank.members]
    for backend in backends:
        process.closing.push_async_callback(backend.close)
    factory = ServingFactory(config, recall, rank, hidden, process.telemetry, recorder.log_id)
    versions = _follow(factory, process)
    rollout = Rollout(lambda: versions.active().servable, backends, timeout_seconds=config.rollout_timeout_seconds)

    async def move() -> None:
        rollout.step()

    background.start("rollout", move, lambda: _TICK_SECONDS, process.closing)
    background.start("hidden items", partial(asyncio.to_thread, hidden.refresh), lambda: _TICK_SECONDS, process.closing)
    _probe(backends, rollout, process)
    servicer = GatewayServicer(
        config=config,
        rollout=rollout,
        backends=backends,
        recorder=recorder,
        answers=answers,
        telemetry=process.telemetry,
        own_status=versions.status,
    )
    return [servicer.service()]


def _open_files(config: GatewayConfig, process: Process) -> tuple[EventRecorder, AnswerLog]:
    """Opens the files that the gateway writes; the last entries are written after the process has drained."""
    limits = EventLimits(config.events_write_seconds, config.events_read_seconds)
    store = SQLiteEventStore(config.events_file)
    process.closing.callback(Claim(config.events_file, _name(config)).release)
    recorder = EventRecorder(store, limits)
    process.closing.push_async_callback(asyncio.to_thread, recorder.close)
    dropped = process.telemetry.answers_dropped
    answers = AnswerLog(config.answers_file, dropped=dropped.inc, keep_days=config.answers_keep_days)
    process.closing.push_async_callback(asyncio.to_thread, answers.close)
    return recorder, answers


def _name(config: GatewayConfig) -> str:
    """What only the workers of one gateway have in common; one without a shared port has no others."""
    if config.shared_port is None:
        return f"{platform.node()}, process {os.getpid()}"
    return f"{platform.node()}, {config.host}:{config.shared_port}"


def _connect(config: GatewayConfig) -> tuple[list[Workers[RecallBackend]], Workers[RankBackend]]:
    """Connects to the other processes."""
    recall = [
        Workers([RecallBackend(name, target, config) for target in split_targets(targets)])
        for name, targets in config.recall.items()
    ]
    return recall, Workers([RankBackend(RANKER, target, config) for target in split_targets(config.rank)])


def _probe(backends: Sequence[Backend], rollout: Rollout, process: Process) -> None:
    """Starts probing the processes that bundles use; others need not be running."""

    def begin(backend: Backend) -> None:
        async def probe() -> None:
            if backend.name in rollout.used_names:
                await backend.probe()

        background.start(f"probe of {backend.name} at {backend.target}", probe, backend.pause_seconds, process.closing)

    for backend in backends:
        begin(backend)


def _follow(factory: ServingFactory, process: Process) -> Versions[Serving]:
    """Follows the released bundle; the gateway is ready when its own files are loaded."""
    config = factory.config
    store, telemetry = BundleStore(config.bundle_root), process.telemetry
    versions: Versions[Serving] = Versions(store, ROLE, factory.load, check=_check, telemetry=telemetry)
    versions.follow(config.poll_seconds, process.set_ready, process.loaded)
    process.closing.callback(versions.close)
    return versions


def _check(serving: Serving, bundle: Bundle) -> None:
    """Repeats the golden requests of the gateway's own files; raises BundleMismatch for another answer."""
    served = serving.bundle
    check_gateway(
        bundle.folder,
        catalogue=served.catalogue,
        texts=served.texts,
        histories=served.histories,
        fallback=served.fallback,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the gateway; returns its exit code."""
    return run(PROGRAM, GatewayConfig, build, arguments)
