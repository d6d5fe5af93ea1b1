"""Sends numbered messages to every rpc and port of a running system, and looks for what must not be."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field

import psutil
from grpc import aio

from recsys.v1.recommend_pb2 import RecordEventsRequest
from tests.faults.system import System
from tests.fuzz.calls import BAD, RECORD, Ended, Numbered, call, message
from tests.fuzz.http import strange_request
from tests.fuzz.ports import Method, methods

IN_FLIGHT = 32
_HTTP_EVERY = 250
_SAY_SECONDS = 5.0
_MOST_PROBLEMS = 50
_WARM_SHARE = 0.2
_RSS_GROWTH, _RSS_SPARE = 1.2, 24 << 20
_DESCRIPTORS, _THREADS = 40, 8
"""How much more than after the warm-up there may be in the end."""


@dataclass(slots=True)
class Found:
    """What came of a run."""

    sent: int = 0
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By method and status."""
    acknowledged: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    """Of bad endings: the same one many times is one problem."""

    def take(self, sent: Numbered, ended: Ended) -> None:
        """Adds one call."""
        self.sent += 1
        self.codes[sent.method.path, ended.code] += 1
        if ended.code in BAD:
            kind = f"{sent.method.role} {sent.method.path}: {ended.code}: {ended.details[:120]}"
            self.kinds[kind] += 1
            if self.kinds[kind] == 1 and len(self.problems) < _MOST_PROBLEMS:
                self.problems.append(f"{kind} <- {sent.about}")
        if sent.method.path == RECORD and ended.code == "OK":
            self.acknowledged |= {event.event_id for event in RecordEventsRequest.FromString(sent.body).events}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds."""

    pid: int
    rss: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, process: psutil.Process) -> Usage:
        """Now."""
        with process.oneshot():
            return cls(process.pid, process.memory_info().rss, process.num_fds(), process.num_threads())


def usage(system: System) -> dict[str, Usage]:
    """Of every server."""
    return {role: Usage.of(process) for role, process in system.servers().items()}


def fuzz(system: System, numbers: range, seed: int, *, say: Callable[[str], None]) -> Found:
    """Sends the messages with these numbers; what must not be is in `problems` of what is returned."""
    found, started = Found(), usage(system)
    warm = numbers[: int(len(numbers) * _WARM_SHARE)]
    asyncio.run(_send(system, warm, seed, found, say))
    before = usage(system)
    asyncio.run(_send(system, numbers[len(warm) :], seed, found, say))
    found.problems += [
        *_replaced(started, usage(system)),
        *(_grown(before, usage(system)) if warm else ()),
        *_wrong_events(system, found.acknowledged),
        *_tracebacks(system),
    ]
    return found


async def _send(system: System, numbers: range, seed: int, found: Found, say: Callable[[str], None]) -> None:
    waiting = iter(numbers)
    every = methods(system)
    channels = {method.target: aio.insecure_channel(method.target) for method in every}
    last = time.monotonic()

    async def work() -> None:
        nonlocal last
        for number in waiting:
            sent = message(every, seed, number, system.items)
            found.take(sent, await call(channels[sent.method.target], sent))
            if number % _HTTP_EVERY == 0:
                await asyncio.to_thread(_ask_for_metrics, system, seed, number, found)
            if time.monotonic() - last > _SAY_SECONDS:
                last = time.monotonic()
                say(f"{found.sent:,} sent, at number {number:,}; {len(found.problems)} problems")

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work())
    for channel in channels.values():
        await channel.close()


def _ask_for_metrics(system: System, seed: int, number: int, found: Found) -> None:
    rng = random.Random(f"{seed}/{number}/http")
    role = rng.choice(system.roles)
    if wrong := strange_request(system.ports.metrics[role], rng):
        found.problems.append(f"{role}: {wrong} <- message {number}")


def _replaced(before: dict[str, Usage], after: dict[str, Usage]) -> Iterable[str]:
    for role, one in before.items():
        if role not in after or after[role].pid != one.pid:
            yield f"{role} did not survive"


def _grown(before: dict[str, Usage], after: dict[str, Usage]) -> Iterable[str]:
    for role in before.keys() & after.keys():
        old, new = before[role], after[role]
        if new.rss > old.rss * _RSS_GROWTH + _RSS_SPARE:
            yield f"{role}: resident memory grew from {old.rss >> 20} to {new.rss >> 20} MiB"
        if new.descriptors > old.descriptors + _DESCRIPTORS:
            yield f"{role}: descriptors grew from {old.descriptors} to {new.descriptors}"
        if new.threads > old.threads + _THREADS:
            yield f"{role}: threads grew from {old.threads} to {new.threads}"


def _wrong_events(system: System, acknowledged: set[str]) -> Iterable[str]:
    """Every acknowledged id is there, and with each of its users once."""
    with closing(sqlite3.connect(f"{system.events_file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT event_id, max(n) FROM (SELECT event_id, count(*) AS n FROM events "
                                  "GROUP BY user_key, event_id) GROUP BY event_id").fetchall()  # fmt: skip
    found = dict(rows)
    if lost := acknowledged - found.keys():
        yield f"{len(lost)} of {len(acknowledged)} acknowledged events are lost, for example {min(lost)!r}"
    if doubled := [event_id for event_id, n in found.items() if n > 1]:
        yield f"{len(doubled)} events are there more than once, for example {doubled[0]!r}"


def _tracebacks(system: System) -> Iterable[str]:
    for log in sorted(system.setup.logs.glob("*.log*")):
        text = log.read_text(encoding="utf-8", errors="replace")
        if n := text.count("Traceback (most recent call last)"):
            end = text[text.index("Traceback") :].replace("\\n", "\n").splitlines()
            last = next((line for line in end[1:] if line and not line.startswith(" ")), "")
            yield f"{log.name}: {n} tracebacks, the first one ends: {last[:200]}"


def summary(found: Found, every: Iterable[Method]) -> list[list[str]]:
    """Head and rows: how the calls of each method ended."""
    paths = dict.fromkeys(method.path for method in every)
    codes = sorted({code for _, code in found.codes})
    rows = [[path, *(f"{found.codes[path, code]:,}" for code in codes)] for path in paths]
    return [["method", *codes], *rows]
