#!/usr/bin/env python3
"""What several processes per role give on this machine, and what a model says of larger ones.

    python benchmarks/workers.py --dataset ml-1m --root data [--save benchmarks/results/workers/ml-1m.json]

Starts the servers of a published bundle twice, with one process per role and with two, and loads them in turn with
h2load. CPU is user and system time per complete answer; memory is PSS, with one set of servers at a time. The model
takes the CPU per answer of each role, as measured with one process each, and says how many processes a number of
cores can feed; see `model`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from race.processes import memory_mib
from race.report import table as markdown
from race.results import Closed
from race.rounds import closed
from race.servers import CHECKOUT, Checkout, Setting
from race.track import commit_of
from race.users import LOADED, by_history_length

from offline.studies.benchmark.machine import machine, versions

TWO = "gateway=2,itemcf=2,popularity=2,vector=2,rank=2"
IN_FLIGHT = (16, 64)
CORES = (2, 4, 8, 16)
BUSY = 0.8
"""Share of its time that a machine, and each single-threaded process, is kept busy: the rest is for peaks."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to start the servers."""

    name: str
    loops: Mapping[int, Sequence[Closed]]
    """Rounds by requests in flight."""
    pss: Mapping[str, float]
    """MiB by process."""

    def median(self, in_flight: int, field: str) -> float:
        """Of all rounds."""
        return statistics.median(getattr(loop, field) for loop in self.loops[in_flight])

    def cpu_ms(self, in_flight: int) -> dict[str, float]:
        """CPU per answer by process, medians of all rounds."""
        loops = self.loops[in_flight]
        return {name: statistics.median(loop.cpu_ms[name] for loop in loops) for name in loops[0].cpu_ms}


def role_of(name: str) -> str:
    """`rank` of `rank-1`."""
    return name.rpartition("-")[0] or name


def by_role(values: Mapping[str, float]) -> dict[str, list[float]]:
    """The values of the processes of each role."""
    found: dict[str, list[float]] = {}
    for name, value in values.items():
        found.setdefault(role_of(name), []).append(value)
    return found


def unevenness(values: Mapping[str, float]) -> float:
    """How far a process is from the mean of its role at most, as a share of the mean."""
    groups = [group for group in by_role(values).values() if len(group) > 1]
    return max((abs(value * len(group) / sum(group) - 1) for group in groups for value in group), default=0.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the model says of a number of cores."""

    per_second: float
    processes: Mapping[str, int]
    mib: float


def model(cores: int, cpu_ms: Mapping[str, float], pss: Mapping[str, float]) -> Plan:
    """Answers per second X = BUSY · cores / Σ c_r, with c_r the CPU seconds of role r per answer; then role r needs
    ⌈X · c_r / BUSY⌉ processes, each of which uses one core at most. Memory is that of so many processes, an upper
    limit: what they share is counted in each.

    It assumes that CPU per answer stays as it is here: no waiting for memory or for the kernel, batches as large as
    here, and load generators on another machine.
    """
    per_second = BUSY * cores / sum(cpu_ms.values()) * 1e3
    processes = {role: math.ceil(per_second * ms / 1e3 / BUSY) for role, ms in cpu_ms.items()}
    return Plan(per_second, processes, sum(n * pss[role] for role, n in processes.items()))


def memory_of(server: Checkout, users: Sequence[int]) -> dict[str, float]:
    """MiB (PSS) by process after some load, with no other servers about."""
    server.start()
    try:
        closed(server, users, in_flight=IN_FLIGHT[0], seconds=2.0)
        return {name: memory_mib({name: pids})["pss"] for name, pids in server.parts.items()}
    finally:
        server.stop()


def measure(servers: Sequence[Checkout], users: Sequence[int], rounds: int, seconds: float) -> list[Measured]:
    """Loads the servers in turn, each time another one first."""
    pss = [memory_of(server, users) for server in servers]
    loops: list[dict[int, list[Closed]]] = [{n: [] for n in IN_FLIGHT} for _ in servers]
    for server in servers:
        server.start()
    try:
        for server in servers:
            closed(server, users, in_flight=IN_FLIGHT[0], seconds=2.0)
        for number in range(rounds):
            for in_flight in IN_FLIGHT:
                for place in range(len(servers)):
                    turn = (number + place) % len(servers)
                    loops[turn][in_flight].append(closed(servers[turn], users, in_flight=in_flight, seconds=seconds))
    finally:
        for server in servers:
            server.stop()
    return [Measured(*entry) for entry in zip((server.name for server in servers), loops, pss, strict=True)]


def table(measured: Sequence[Measured]) -> str:
    """What was measured, as Markdown."""
    header = ["processes per role", "in flight", "answers/s", "CPU ms per answer", "p50 ms", "p99 ms", "not complete"]
    rows = []
    for one in measured:
        for in_flight, loops in one.loops.items():
            lacking = min(1.0, max(sum(loop.shares.values()) for loop in loops))  # late ones may be degraded, too
            rows.append(
                [
                    *(one.name, str(in_flight), f"{one.median(in_flight, 'per_second'):.0f}"),
                    *(f"{one.median(in_flight, 'cpu'):.2f}", f"{one.median(in_flight, 'p50_ms'):.1f}"),
                    *(f"{one.median(in_flight, 'p99_ms'):.1f}", f"{lacking:.1%}"),
                    *(f"± {unevenness(one.cpu_ms(in_flight)):.0%}", f"{sum(one.pss.values()):.0f}"),
                ]
            )
    return markdown([*header, "worst process of its role", "PSS MiB"], rows)


def inputs(one: Measured) -> str:
    """What the model takes, as Markdown."""
    cpu = one.cpu_ms(IN_FLIGHT[-1])
    rows = [[role, f"{ms:.3f}", f"{one.pss[role]:.0f}"] for role, ms in cpu.items()]
    return markdown(["role", "CPU ms per answer", "PSS MiB"], rows)


def modelled(one: Measured) -> str:
    """The model, as Markdown."""
    cpu = one.cpu_ms(IN_FLIGHT[-1])
    plans = {cores: model(cores, cpu, one.pss) for cores in CORES}
    rows = [
        [str(cores), f"{plan.per_second:.0f}", *(str(plan.processes[role]) for role in cpu), f"{plan.mib:.0f}"]
        for cores, plan in plans.items()
    ]
    return markdown(["cores", "answers/s", *cpu, "MiB"], rows)


def tables(result: Mapping[str, Any]) -> str:
    """What was measured, what the model takes of it, and what it says, as Markdown."""
    measured = [
        Measured(
            one["name"],
            {int(n): [Closed(**loop) for loop in loops] for n, loops in one["loops"].items()},
            one["pss"],
        )
        for one in result["measured"]
    ]
    return f"{table(measured)}\n\n{inputs(measured[0])}\n\n{modelled(measured[0])}"


def main() -> None:
    """Prints three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one load")
    parser.add_argument("--budget", type=float, help="budget_seconds of the gateways, in place of the default")
    parser.add_argument("--save", type=Path, default=None, help="file for the figures, as JSON")
    options = parser.parse_args()
    bundles = (options.root / options.dataset / "bundles" / "production").absolute()
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(bundles, Path(folder), budget_seconds=options.budget)
        servers = [Checkout("one", setting), Checkout("two", setting, workers=TWO)]
        measured = measure(servers, list(by_history_length(bundles, LOADED)), options.rounds, options.seconds)
    made = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), "versions": versions()}
    made |= {"dataset": options.dataset, "commit": commit_of(CHECKOUT)}
    text = json.dumps({**made, "measured": [asdict(one) for one in measured]}, indent=1) + "\n"
    print(tables(json.loads(text)))
    if options.save is not None:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
