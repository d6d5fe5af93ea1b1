"""Who takes part in a race."""

from __future__ import annotations

import argparse
from pathlib import Path

from race.peers import Monolith, RayServe, Triton
from race.results import AGAINST, NUMPY, OURS, PLAIN, WITH_KERNELS
from race.servers import CHECKOUT, NUMPY_KERNELS, Checkout, Floor, Server, Setting


def bundles_of(root: Path, dataset: str) -> Path:
    """The store of a data set's production bundles."""
    return root.absolute() / dataset / "bundles" / "production"


def servers_of(options: argparse.Namespace, setting: Setting) -> list[Server]:
    """Who takes part."""
    servers: list[Server] = [Checkout(OURS, setting)]
    if options.against is not None:
        servers.append(Checkout(AGAINST, against_setting(options, setting), options.against.absolute()))
    servers.append(Monolith(PLAIN, setting, options.peers_python, NUMPY_KERNELS))
    if not options.short:
        servers += [
            Monolith(WITH_KERNELS, setting, options.peers_python, {}),
            RayServe("ray serve", setting, options.peers_python, _RAY | NUMPY_KERNELS),
            Triton("triton", setting, options.triton_python, NUMPY_KERNELS),
            Triton("triton, our kernels", setting, options.triton_python, {}),
        ]
    wanted = {OURS, *options.only.split(";")} if options.only else {server.name for server in servers}
    return [server for server in servers if server.name in wanted]


_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "150"}
"""No reports to its makers, and patience with a busy machine."""


def against_setting(options: argparse.Namespace, setting: Setting) -> Setting:
    """The setting with the bundle that the other checkout reads."""
    bundles = bundles_of(options.against_root or options.root, options.dataset)
    return Setting(bundles, setting.folder, setting.count, setting.deadline_seconds, setting.budget_seconds)


def floors_of(options: argparse.Namespace, setting: Setting) -> list[Floor]:
    """One process without a server: ours, ours without compiled kernels, the other checkout's."""
    floors = [Floor(OURS, setting, CHECKOUT, {}), Floor(NUMPY, setting, CHECKOUT, NUMPY_KERNELS)]
    if options.against is not None:
        floors.append(Floor(AGAINST, against_setting(options, setting), options.against.absolute(), {}))
    return floors
