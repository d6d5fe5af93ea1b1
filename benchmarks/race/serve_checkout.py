"""Starts the servers of the checkout that is on the path, as `make serve` does, until standard input closes.

    PYTHONPATH=CHECKOUT:benchmarks python -m race.serve_checkout --bundles ROOT --folder FOLDER

Prints one JSON object when every server is ready: `targets` (HOST:PORT of each gateway), `metrics` and `pids` by
server.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from race.checkouts import named
from recsys.bundle import BundleStore

READY_SECONDS = 180.0


def main() -> None:
    """Serves until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, required=True, help="root of a bundle store")
    parser.add_argument("--folder", type=Path, required=True, help="where logs and recorded events go")
    parser.add_argument("--budget-seconds", type=float, help="of the gateway; its default if not given")
    parser.add_argument("--workers", default="", help="NAME=NUMBER, separated by commas; one of each if not given")
    options = parser.parse_args()
    pairs = (entry.partition("=") for entry in filter(None, options.workers.split(",")))
    several = {"workers": workers} if (workers := {role: int(n) for role, _, n in pairs}) else {}
    budget = {} if options.budget_seconds is None else {"budget-seconds": f"{options.budget_seconds:g}"}
    store, folder, ports = (
        BundleStore(options.bundles.absolute()),
        options.folder.absolute(),
        named("Ports").free(**several),
    )
    channels = named("channels_of")(store)
    servers = named("programs")(
        store.root, folder / "events", ports, channels=channels, role_settings={"gateway": budget}, **several
    )
    gateways = [server.target for server in servers if server.name.startswith("gateway")]
    with named("LocalCluster")(servers, folder / "logs") as cluster:
        cluster.wait_healthy(READY_SECONDS)
        for target in gateways:
            named("wait_complete")(target, READY_SECONDS)
        metrics = {server.name: server.metrics_target for server in servers}
        ready = {"targets": gateways, "metrics": metrics, "pids": cluster.pids()}
        print(json.dumps(ready), flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end of standard input comes with it
        sys.stdin.read()


if __name__ == "__main__":
    main()
