"""A server of the running system is killed or stopped, for good, while requests keep coming at a fixed rate.

`python -m tests.integration.faults --bundle-root data/ml-1m/bundles/production` runs every fault at full length and
prints a table; the integration test runs short ones.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.state import Histories
from offline.local import wait_complete
from offline.open_loop import Sample, percentiles, send_at_rate
from recsys.bundle import BundleStore
from recsys.cluster import LocalCluster, Ports, programs
from recsys.v1.recommend_pb2 import RecommendRequest
from recsys.watchdog import HANG_SECONDS

ROLES = ("popularity", "itemcf", "vector", "rank")
RATE = 50.0
LATE_SECONDS = 0.5
"""The gateway's budget of 250 ms, and the way there and back on a busy machine."""

RESTART_SECONDS = 12.0
"""What a killed server may take until its answers are used again."""


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds: quiet at first, then the fault and time to heal by itself, then quiet."""

    before: float
    healing: float
    after: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.before + self.healing + self.after


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the clients saw."""

    role: str
    signal: str
    requests: int
    failed: list[str]
    late: int
    degraded_before: int
    degraded_during: int
    degraded_after: int
    latency: dict[str, float]


async def run_fault(cluster: LocalCluster, target: str, role: str, number: signal.Signals, phases: Phases) -> Outcome:
    """Sends `number` to the server of `role` under load and sorts the answers by phase."""
    requests = [RecommendRequest(user_id=user, count=10, debug=True) for user in _users(cluster, phases)]

    async def harm() -> None:
        await asyncio.sleep(phases.before)
        os.kill(cluster.pids()[role], number)

    samples, _ = await asyncio.gather(send_at_rate(target, requests, rate=RATE), harm())
    return _sorted_by_phase(samples, role, number, phases)


def _users(cluster: LocalCluster, phases: Phases) -> Sequence[int]:
    users = Histories.open(cluster.folder / "bundle").user_ids
    n = int(phases.total * RATE)
    return [int(users[(number * 37) % len(users)]) for number in range(n)]


def _sorted_by_phase(samples: Sequence[Sample], role: str, number: signal.Signals, phases: Phases) -> Outcome:
    degraded = [(sample.due, sample.response.degraded) for sample in samples if sample.response is not None]
    harmed, healed = phases.before, phases.total - phases.after
    return Outcome(
        role,
        number.name,
        len(samples),
        [sample.error for sample in samples if sample.error],
        sum(sample.latency > LATE_SECONDS for sample in samples),
        sum(flag for due, flag in degraded if due < harmed - 0.1),
        sum(flag for due, flag in degraded if harmed <= due < healed),
        sum(flag for due, flag in degraded if due >= healed),
        percentiles(samples),
    )


def started(bundle_root: Path, folder: Path, *, hang_seconds: float = HANG_SECONDS) -> tuple[LocalCluster, str]:
    """A healthy cluster on free ports, and the address of its gateway."""
    store, ports = BundleStore(bundle_root.absolute()), Ports.free()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bundle").symlink_to(store.open(store.release().current).folder)
    servers = programs(store.root, folder / "events", ports, settings={"log-level": "WARNING"})
    cluster = LocalCluster(servers, folder, hang_seconds=hang_seconds)
    cluster.start()
    cluster.wait_healthy(90)
    wait_complete(ports.target("gateway"), 30)
    return cluster, ports.target("gateway")


def main() -> None:
    """Every fault at full length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle-root", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="quiet time before and after")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster, target = started(options.bundle_root, Path(folder, "run"))
        try:
            for role in ROLES:
                for number, hang in ((signal.SIGKILL, 0.0), (signal.SIGSTOP, HANG_SECONDS)):
                    phases = Phases(options.seconds, hang + RESTART_SECONDS, options.seconds)
                    print(asyncio.run(run_fault(cluster, target, role, number, phases)), flush=True)
        finally:
            print("exit codes", cluster.stop())


if __name__ == "__main__":
    main()
