"""The race: starts the servers, compares their lists, lets them run in turn, and prints what came of it."""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from race.figures import Spread
from race.processes import memory_mib
from race.rounds import Closed, closed
from race.servers import CHECKOUT, Checkout, Monolith, Server, Setting
from race.users import COMPARED, LOADED, by_history_length, differences, offline_lists

IN_FLIGHT = (1, 16, 64)
OURS, AGAINST, PLAIN = "ours", "against", "fastapi"

Measured = dict[str, dict[int, list[Closed]]]
"""By server and number of requests in flight, one per round."""


def options_of(arguments: Sequence[str], description: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--peers-python", type=Path, default=CHECKOUT / ".venv-race/bin/python")
    parser.add_argument("--against", type=Path, help="another checkout of this project, which runs with this Python")
    parser.add_argument("--short", action="store_true", help="ratios of ours, --against and FastAPI, in half a minute")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--count", type=int, default=10, help="items per request")
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds after which an answer does not count")
    parser.add_argument("--budget", type=float, help="budget_seconds of our gateways, in place of the default")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (3 if options.short else 5)
    options.seconds = options.seconds or (1.0 if options.short else 3.0)
    return options


def servers_of(options: argparse.Namespace, setting: Setting) -> list[Server]:
    """Who takes part."""
    servers: list[Server] = [Checkout(OURS, setting)]
    if options.against is not None:
        servers.append(Checkout(AGAINST, setting, options.against.absolute()))
    servers.append(Monolith(PLAIN, setting, options.peers_python, environment={}))
    return servers


def check_lists(servers: Sequence[Server], setting: Setting) -> None:
    """Raises RuntimeError where a server's list is not the one of a single process."""
    users = list(by_history_length(setting.bundles, COMPARED))
    expected = offline_lists(setting.bundles, users, setting.count)
    for server in servers:
        for at_once in (1, 16):
            with ThreadPoolExecutor(at_once) as pool:
                found = dict(zip(users, pool.map(server.item_ids, users), strict=True))
            wrong = differences(expected, found)
            if wrong:
                raise RuntimeError(f"{server.name}, {at_once} at once, {len(wrong)} of {len(users)} lists: {wrong[0]}")


def closed_loops(servers: Sequence[Server], user_ids: Sequence[int], *, rounds: int, seconds: float) -> Measured:
    """Every server in every round, the first one another each time."""
    measured: Measured = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for place in range(len(servers)):
            server = servers[(place + number) % len(servers)]
            for in_flight in IN_FLIGHT:
                measured[server.name][in_flight].append(closed(server, user_ids, in_flight=in_flight, seconds=seconds))
    return measured


def ratios(measured: Measured) -> dict[str, dict[int, dict[str, Spread]]]:
    """Ours divided by each other, round by round."""
    ours = measured[OURS]
    return {
        name: {
            in_flight: {
                "requests/s": Spread.of_ratios(
                    [one.per_second for one in ours[in_flight]], [o.per_second for o in other]
                ),
                "CPU": Spread.of_ratios([one.cpu for one in ours[in_flight]], [o.cpu for o in other]),
                "p50": Spread.of_ratios([one.p50_ms for one in ours[in_flight]], [o.p50_ms for o in other]),
            }
            for in_flight, other in by_number.items()
        }
        for name, by_number in measured.items()
        if name != OURS
    }


def lines(measured: Measured) -> list[str]:
    """Medians by server and number in flight, then ratios with their spread."""
    made = ["server in-flight requests/s p50-ms p99-ms CPU-ms degraded refused late | CPU by process"]
    for name, by_number in measured.items():
        for in_flight, loops in by_number.items():
            figures = [
                Spread.of([getattr(loop, field) for loop in loops]).median
                for field in ("per_second", "p50_ms", "p99_ms", "cpu")
            ]
            shares = [max(loop.shares[share] for loop in loops) for share in ("degraded", "refused", "late")]
            parts = {part: Spread.of([loop.cpu_ms.get(part, 0.0) for loop in loops]).median for part in loops[0].cpu_ms}
            made.append(
                f"{name} {in_flight} "
                + " ".join(f"{figure:.2f}" for figure in figures)
                + " "
                + " ".join(f"{share:.1%}" for share in shares)
                + " | "
                + " ".join(f"{part} {value:.2f}" for part, value in parts.items())
            )
    for name, by_number in ratios(measured).items():
        for in_flight, by_figure in by_number.items():
            for figure, spread in by_figure.items():
                made.append(
                    f"ours / {name}, {in_flight} in flight, {figure}: "
                    f"{spread.median:.2f} [{spread.low:.2f}, {spread.high:.2f}]"
                )
    return made


def main(arguments: Sequence[str], description: str) -> None:
    """Runs the race."""
    options = options_of(arguments, description)
    bundles = options.root.absolute() / options.dataset / "bundles" / "production"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        setting = Setting(bundles, Path(folder), options.count, options.deadline, options.budget)
        servers = servers_of(options, setting)
        for server in servers:
            running.callback(server.stop)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda server: server.start(), servers))
        check_lists(servers, setting)
        users = by_history_length(bundles, LOADED)
        print("users and their events:", users)
        for server in servers:
            closed(server, list(users), in_flight=16, seconds=1.0)  # warm-up
        measured = closed_loops(servers, list(users), rounds=options.rounds, seconds=options.seconds)
        print("\n".join(lines(measured)))
        for server in servers:
            print(server.name, {kind: round(mib) for kind, mib in memory_mib(server.processes.values()).items()}, "MiB")
