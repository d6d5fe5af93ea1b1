"""kill -9 at random moments: the gateway, the front, and `offline ingest` while it appends what the gateway records.

Nothing that was acknowledged may be lost or doubled, in the events file or in the tables.
"""

from __future__ import annotations

import asyncio
import csv
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from offline.ingest.report import IngestReport
from recsys.catalogue import ItemTexts
from tests.faults.contract import Row
from tests.faults.load import Load
from tests.faults.memory import watched
from tests.faults.system import ROOT, Setup, System, running

WEIGHTS = {"gateway": 6, "front": 1, "ingest": 3}
_RATE, _EVENT_RATE = 10.0, 8.0
_PAUSE_SECONDS = 2.0
"""At most, after a kill."""
_INGEST_SECONDS = 4.0
"""What an ingest gets at most before it is killed."""
_SAY_EVERY = 10
_WHOLE_SECONDS = 120.0


class Tables:
    """Tables of a data set of its own, to which the recorded events are appended again and again."""

    def __init__(self, system: System, folder: Path) -> None:
        raw, self._root = folder / "raw", folder / "data"
        raw.mkdir(parents=True)
        with (raw / "interactions.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("user", "item", "timestamp", "rating"))
            writer.writerows(("somebody", key, 1 + n, 3) for n, key in enumerate(ItemTexts.load(system.bundle).keys))
        self._words = [
            *(sys.executable, "-m", "offline", "ingest", "--dataset", "kills"),
            *("--data-dir", str(raw), "--root", str(self._root), "--events-from", str(system.events_file)),
        ]

    def start(self) -> subprocess.Popen[bytes]:
        """An ingest."""
        return subprocess.Popen(self._words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish(self) -> int:
        """Lets an ingest end; returns how many recorded events the tables hold."""
        subprocess.run(self._words, cwd=ROOT, check=True, capture_output=True)
        (tables,) = self._root.glob("kills/tables*")
        return IngestReport.load(tables).appended


def run(bundle_root: Path, folder: Path, kills: int, seed: int, *, say: Callable[[str], None]) -> Row:
    """Kills `kills` times; the same victims in the same order for the same seed."""
    folder.mkdir(parents=True)
    row = Row("kills", f"{kills:,} kill -9 at random moments of gateway, front and ingest")
    with running(Setup(bundle_root.absolute(), folder)) as system:
        asyncio.run(_run(system, row, kills, random.Random(seed), say))
    return row


async def _run(system: System, row: Row, kills: int, rng: random.Random, say: Callable[[str], None]) -> None:
    tables = Tables(system, system.setup.folder / "ingest")
    load = Load(system, rate=_RATE, event_rate=_EVENT_RATE)
    loading = asyncio.create_task(load.run())
    victims: Counter[str] = Counter()
    with watched(system) as memory:
        try:
            for number in range(kills):
                victim = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
                victims[victim] += 1
                await asyncio.to_thread(_kill, system, tables, victim, rng)
                if (number + 1) % _SAY_EVERY == 0:
                    say(f"{number + 1:,} kills ({dict(victims)}), {len(load.acknowledged):,} events acknowledged")
            await asyncio.to_thread(system.wait_whole, _WHOLE_SECONDS)
        finally:
            load.stop()
            await loading
    row.requests, row.failed = len(load.samples), sum(bool(sample.error) for sample in load.samples)
    row.events, row.unacknowledged = len(load.acknowledged), load.unacknowledged
    row.rss_mib, row.rss_growth = memory.worst
    row.lost, row.doubled = await asyncio.to_thread(load.missing)
    appended = await asyncio.to_thread(tables.finish)
    with closing(sqlite3.connect(system.events_file)) as connection:
        recorded = connection.execute("SELECT count(*) FROM events").fetchone()[0]
    if appended != recorded:
        row.problems.append(f"the tables hold {appended} recorded events, the events file {recorded}")
    row.problems += [f"{n} events {what}" for n, what in ((row.lost, "lost"), (row.doubled, "doubled")) if n]


def _kill(system: System, tables: Tables, victim: str, rng: random.Random) -> None:
    if victim == "ingest":
        with tables.start() as ingest:
            time.sleep(rng.uniform(0, _INGEST_SECONDS))
            ingest.kill()
    elif victim == "front":
        assert system.front is not None
        system.front.kill()
        system.restart()
    elif gateway := system.servers().get("gateway"):
        gateway.kill()
    time.sleep(rng.uniform(0, _PAUSE_SECONDS))
