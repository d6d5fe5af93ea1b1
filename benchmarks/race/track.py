"""One race: weighs the servers, compares their lists, and lets them run in turn."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from race.figures import Spread
from race.open_loop import Phase
from race.participants import bundles_of, floors_of, servers_of
from race.processes import memory_mib
from race.results import OURS, Race
from race.rounds import closed, opened, overloaded
from race.servers import CHECKOUT, Checkout, Server, Setting
from race.users import COMPARED, LOADED, by_history_length, differences, offline_lists
from recsys import kernels
from recsys.bundle import BundleStore
from recsys.catalogue import Catalogue

IN_FLIGHT = (1, 16, 64)
SHARES = (0.5, 0.7, 0.8)
BATCHES = (1, 16)
AT_ONCE = (1, 16)
"""Requests at a time while lists are compared."""


class Track:
    """A race under way: its servers, users, and what has been measured."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.setting = Setting(
            bundles_of(options.root, options.dataset), folder, options.count, options.deadline, options.budget
        )
        self.servers = servers_of(options, self.setting)
        users = by_history_length(self.setting.bundles, LOADED)
        self.users = list(users)
        compared = list(by_history_length(self.setting.bundles, COMPARED))
        self.expected = offline_lists(self.setting.bundles, [*self.users, *compared], options.count)
        self.race = Race(facts_of(options, self.setting, users), options.deadline, options.open_deadline)
        self.bodies: dict[str, dict[int, bytes]] = {}

    def run(self) -> None:
        """Everything, in order."""
        if not self.options.short:
            self.weigh()
        self.floors = floors_of(self.options, self.setting)
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda server: server.start(), [one for one in self.servers if one.resident]))
                list(pool.map(lambda floor: floor.start(self.users), self.floors))
            self.compare_all()
            self.closed_loops()
            if not self.options.short:
                self.open_loops()
                self.overloads()
        finally:
            for one in (*self.servers, *self.floors):
                one.stop()

    def weigh(self) -> None:
        """Memory of every server, alone on the machine and after some load; one that does not start takes no part."""
        for server in list(self.servers):
            say(f"{server.name}: memory")
            try:
                server.start()
                self.compare(server)
                closed(server, self.users, in_flight=16, seconds=2.0)
                self.race.memory[server.name] = memory_mib(server.parts)
            except (RuntimeError, OSError) as error:
                self.race.absent[server.name] = str(error)
                self.servers.remove(server)
                say(f"{server.name} does not take part: {error}")
            finally:
                server.stop()
        self.race.memory_by_dataset[self.options.dataset] = self.race.memory[OURS]
        if self.options.memory_of:
            self.race.memory_by_dataset[self.options.memory_of] = self.memory_of(self.options.memory_of)

    def memory_of(self, dataset: str) -> dict[str, float]:
        """Ours with the bundle of another data set."""
        bundles = bundles_of(self.options.root, dataset)
        ours = Checkout(f"{OURS} {dataset}", Setting(bundles, self.setting.folder))
        try:
            ours.start()
            closed(ours, list(by_history_length(bundles, LOADED)), in_flight=16, seconds=2.0)
            return memory_mib(ours.parts)
        finally:
            ours.stop()

    def compare_all(self) -> None:
        """Compares the lists of every server, and warms it up."""
        for server in self.servers:
            with self.turn_of(server):
                self.compare(server)
                closed(server, self.users, in_flight=16, seconds=1.0)

    def compare(self, server: Server) -> None:
        """Raises RuntimeError where a list is not the one of `offline evaluate`; remembers the bodies."""
        for at_once in AT_ONCE:
            with ThreadPoolExecutor(at_once) as pool:
                bodies = dict(zip(self.expected, pool.map(server.body, self.expected), strict=True))
            found = {user_id: server.item_ids(body) for user_id, body in bodies.items()}
            wrong = differences(self.expected, found)
            if wrong:
                raise RuntimeError(f"{server.name}, {at_once} at once: {len(wrong)} of {len(found)} lists: {wrong[0]}")
        self.bodies[server.name] = {user_id: bodies[user_id] for user_id in self.users}

    def order(self, number: int) -> list[Server]:
        """The servers of a round, each time another one first."""
        first = number % len(self.servers)
        say(f"round {number + 1} of {self.options.rounds}")
        return [*self.servers[first:], *self.servers[:first]]

    def closed_loops(self) -> None:
        """Every server with each number of requests in flight, and every floor, round by round."""
        for number in range(self.options.rounds):
            for server in self.order(number):
                by_load = self.race.closed.setdefault(server.name, {})
                with self.turn_of(server):
                    for in_flight in IN_FLIGHT:
                        loop = closed(server, self.users, in_flight=in_flight, seconds=self.options.seconds)
                        by_load.setdefault(str(in_flight), []).append(loop)
            for floor in self.floors:
                by_batch = self.race.floors.setdefault(floor.name, {})
                for batch in BATCHES:
                    by_batch.setdefault(str(batch), []).append(floor.milliseconds(batch, self.options.seconds / 3))

    def capacity(self, server: Server) -> float:
        """Answers per second that count, at the highest load."""
        loops = self.race.closed[server.name][str(IN_FLIGHT[-1])]
        return Spread.of([loop.per_second for loop in loops]).median

    def open_loops(self) -> None:
        """Every server at each share of its capacity, round by round."""
        for number in range(self.options.rounds):
            for server in self.order(number):
                by_share = self.race.opened.setdefault(server.name, {})
                with self.turn_of(server):
                    for share in SHARES:
                        phase = Phase(share * self.capacity(server), 2 * self.options.seconds)
                        bodies, deadline = self.bodies[server.name], self.options.open_deadline
                        loop = opened(server, bodies, phase, deadline=deadline, seed=number)
                        by_share.setdefault(f"{share:g}", []).append(loop)

    def overloads(self) -> None:
        """Every server under more than it can do, round by round."""
        for number in range(self.options.rounds):
            for server in self.order(number):
                with self.turn_of(server):
                    load = overloaded(
                        server,
                        self.bodies[server.name],
                        capacity=self.capacity(server),
                        deadline=self.options.open_deadline,
                        seed=number,
                    )
                self.race.overloaded.setdefault(server.name, []).append(load)

    @contextmanager
    def turn_of(self, server: Server) -> Iterator[None]:
        """Starts and stops a server that does not run on while others are measured."""
        if server.resident:
            yield
            return
        server.start()
        try:
            yield
        finally:
            server.stop()


def facts_of(options: argparse.Namespace, setting: Setting, users: Mapping[int, int]) -> dict[str, Any]:
    """What the race runs on and with."""
    store = BundleStore(setting.bundles)
    return {
        "command": shlex.join(["python", "benchmarks/race/run.py", *options.arguments]),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "dataset": options.dataset,
        "items": len(Catalogue.load(store.open(store.release().current).folder)),
        "bundle": store.release().current,
        "commit": commit_of(CHECKOUT),
        "before": "" if options.against is None else commit_of(options.against),
        "kernels": kernels.form(),
        "python": platform.python_version(),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "users": {str(user_id): events for user_id, events in users.items()},
        "count": setting.count,
        "rounds": options.rounds,
        "seconds": options.seconds,
    }


def commit_of(checkout: Path) -> str:
    """The commit of a checkout, marked where its files are others."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=checkout, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)
