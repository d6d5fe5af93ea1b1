"""An hour of mixed load without any fault: does anything grow? `python -m tests.soak`, or `make soak`.

Samples memory, descriptors, threads and file sizes of every process every 10 s, fits a line to each after the warm-up
and fails if one grows by more than noise (`tests/soak/slopes.py` has the rule), or a server is not the process that it
was. Files that record what callers do grow with it: for them MiB per hour are said, not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from offline.metrics.text_table import aligned
from tests.faults.bundles import bundles
from tests.faults.load import Load
from tests.faults.system import Setup, System, running
from tests.soak.samples import Samples
from tests.soak.slopes import slope

PAUSE_SECONDS = 10.0
WARM_SHARE = 0.25
JUDGED = ("rss MiB", "pss MiB", "descriptors", "threads")
_SAY_EVERY = 6


async def soak(system: System, seconds: float, pause: float, rate: float) -> tuple[Samples, Load]:
    """Samples and load of so many seconds."""
    load, samples = Load(system, rate=rate), Samples(system)
    loading = asyncio.create_task(load.run())
    started, number = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        await asyncio.to_thread(samples.take)
        if number % _SAY_EVERY == 0:
            print(f"{passed:7.0f} s  {len(load.samples):,} requests, {len(load.acknowledged):,} events", flush=True)
        number += 1
        await asyncio.sleep(pause)
    load.stop()
    await loading
    return samples, load


def table(samples: Samples, seconds: float) -> tuple[list[list[str]], list[str]]:
    """Head and rows of every quantity, and what grows."""
    rows, problems = [["process", "quantity", "level", "per hour", "verdict"]], []
    for (name, kind), values in samples.values.items():
        moments = samples.seconds[name, kind]
        warm = [(at, value) for at, value in zip(moments, values, strict=True) if at >= WARM_SHARE * seconds]
        if len(warm) < 3:
            continue
        found = slope([at for at, _ in warm], [value for _, value in warm])
        grows = kind in JUDGED and found.grows(kind)
        verdict = "grows" if grows else "within noise" if kind in JUDGED else ""
        rows.append([name, kind, f"{found.level:.1f}", f"{found.per_hour:+.2f}", verdict])
        if grows:
            problems.append(f"{name}: {kind} grows by {found.per_hour:.2f} per hour at a level of {found.level:.1f}")
    return rows, problems


def main() -> int:
    """0 if nothing grows."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--pause", type=float, default=PAUSE_SECONDS, help="seconds between samples")
    parser.add_argument("--bundle-root", type=Path, help="published bundles to serve; default: a small one")
    options = parser.parse_args()
    seconds = options.minutes * 60
    with bundles(options.bundle_root) as (root, folder):
        setup = Setup(root.absolute(), folder / "run", settings={})
        setup.folder.mkdir()
        with running(setup) as system:
            samples, load = asyncio.run(soak(system, seconds, options.pause, options.rate))
            rows, problems = table(samples, seconds)
            problems += [f"{role} is not the process that it was" for role in samples.replaced()]
            problems += [f"{n} events {what}" for n, what in zip(load.missing(), ("lost", "doubled"), strict=True) if n]
    failed = sum(bool(sample.error) for sample in load.samples)
    problems += [f"{failed} of {len(load.samples):,} requests failed"] if failed else []
    print("\n".join([*aligned(rows), *(f"FOUND {problem}" for problem in problems)]))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
