"""`python -m tests.faults.front PLAN.json`: owns the servers until SIGTERM, as the end of `offline serve` does.

A process of its own, so that it can be killed and stopped as well.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from offline.local.cluster import LocalCluster
from offline.local.ports import Ports
from offline.local.programs import programs
from offline.local.serve import channels_of
from recsys.bundle import BundleStore


def main(file: str) -> int:
    """0 if every server exited with 0."""
    plan = json.loads(Path(file).read_text(encoding="utf-8"))
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    root, launch = Path(plan["bundle_root"]), plan["launch"]
    servers = programs(
        root,
        Path(plan["events"]),
        Ports(plan["grpc"], plan["metrics"]),
        channels=channels_of(BundleStore(root)),
        settings=plan["settings"],
        role_settings={"gateway": plan["gateway_settings"]},
    )
    servers = [replace(one, arguments=(*launch.get(one.name, ()), *one.arguments)) for one in servers]
    cluster = LocalCluster(servers, Path(plan["logs"]), stop_seconds=60, hang_seconds=plan["hang_seconds"])
    cluster.start()
    stopping.wait()
    codes = cluster.stop()
    print(json.dumps(codes), flush=True)
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
