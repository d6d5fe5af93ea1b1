"""Runs one fault against a real system under load: quiet, harm, recovery, quiet; then counts."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from tests.faults.contract import Broken, Fault, NotPossible, Row
from tests.faults.load import Load, Sample
from tests.faults.memory import watched
from tests.faults.system import HANG_SECONDS, Setup, System, running

_KINDS_SHOWN = 3
NOT_AS_EXPECTED = (AssertionError, grpc.RpcError, psutil.Error, sqlite3.Error, OSError, subprocess.SubprocessError)
"""What a system that does not survive a fault does to its harness: the row says so, and the run goes on."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds."""

    quiet: float = 10.0
    """Before the fault, and after the recovery."""
    hold: float = 15.0
    """That the fault lasts, where something must take it back."""
    recovery: float = 60.0
    """When to give up waiting for the system to be whole."""
    hang: float = HANG_SECONDS
    """When the watchdog kills a silent server."""


FULL = Lengths()
SHORT = Lengths(quiet=1.0, hold=2.5, recovery=40.0, hang=2.0)


def run_fault(
    fault: Fault, bundle_root: Path, folder: Path, lengths: Lengths = FULL, *, say: Callable[[str], None] = print
) -> Row:
    """The row of one fault, on a system of its own. What this machine does not allow is said in the row."""
    setup = Setup(bundle_root.absolute(), folder.absolute(), hang_seconds=lengths.hang)
    setup.folder.mkdir(parents=True)
    row = Row(fault.name, fault.about)
    try:
        fault.prepare(setup)
        with running(setup) as system:
            asyncio.run(_under_load(fault, system, row, lengths, say))
    except NotPossible as why:
        row.not_possible = str(why)
    except NOT_AS_EXPECTED as error:
        row.problems.append(f"{type(error).__name__}: {error}".partition("\n")[0])
    if not row.not_possible:
        row.judge(fault.allowed)
    return row


async def _under_load(fault: Fault, system: System, row: Row, lengths: Lengths, say: Callable[[str], None]) -> None:
    load, healed = Load(system), float("inf")
    loading = asyncio.create_task(load.run())
    with watched(system) as memory:
        try:
            await asyncio.sleep(lengths.quiet)
            say(f"{fault.name}: {fault.about}")
            healed = await asyncio.to_thread(_hold, fault, system, lengths, row)
            say(f"{fault.name}: over; waiting until the system is whole")
            await asyncio.to_thread(system.wait_whole, lengths.recovery)
            await asyncio.sleep(lengths.quiet)
        finally:
            load.stop()
            await loading
            _count(row, load, healed)
            row.rss_mib, row.rss_growth = memory.worst
    row.lost, row.doubled = await asyncio.to_thread(load.missing)


def _hold(fault: Fault, system: System, lengths: Lengths, row: Row) -> float:
    """Causes the fault and takes it back; returns when that was done, or when the system was left to heal itself."""
    harmed = time.monotonic()
    try:
        with fault.cause(system, lengths.hold):
            harmed = time.monotonic()
            if fault.hold:
                time.sleep(lengths.hold)
    except (Broken, *NOT_AS_EXPECTED) as what:
        row.problems.append(str(what))
    return time.monotonic() if fault.hold else harmed


def _count(row: Row, load: Load, healed: float) -> None:
    samples = sorted(load.samples, key=lambda sample: sample.due)
    failed = [sample for sample in samples if sample.error]
    row.requests, row.failed = len(samples), len(failed)
    row.outage_seconds = _longest_outage(samples)
    row.late = sum(sample.is_late for sample in samples)
    row.degraded = sum(sample.degraded for sample in samples)
    row.events, row.unacknowledged = len(load.acknowledged), load.unacknowledged
    row.recovery_seconds = max((s.due - healed for s in samples if not s.is_good), default=0.0)
    row.recovery_seconds = max(0.0, row.recovery_seconds)
    kinds = Counter(sample.error.partition("\n")[0][:100] for sample in failed)
    row.errors = [f"{n} × {kind}" for kind, n in kinds.most_common(_KINDS_SHOWN)]


def _longest_outage(samples: list[Sample]) -> float:
    """Seconds from the first to the last of the failed requests between which none was answered."""
    longest, first = 0.0, None
    for sample in samples:
        if not sample.error:
            first = None
        else:
            first = sample.due if first is None else first
            longest = max(longest, sample.due - first)
    return longest
