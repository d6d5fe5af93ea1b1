"""The race as a program."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from race import report
from race.servers import CHECKOUT
from race.track import Track
from recsys import kernels


def options_of(arguments: Sequence[str], description: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", default="demo")
    add("--root", type=Path, default=Path("data"))
    add("--peers-python", type=Path, default=CHECKOUT / ".venv-race/bin/python", help="of their environment")
    add("--triton-python", type=Path, default=CHECKOUT / ".venv-race-triton/bin/python", help="of Triton's own")
    add("--against", type=Path, help="another checkout of this project, which runs with this Python")
    add("--against-root", type=Path, help="its data root, where it cannot read this one's bundle format")
    add("--short", action="store_true", help="ratios of ours, --against and FastAPI, in half a minute")
    add("--only", default="", help="servers that take part next to ours, separated by semicolons; all if not given")
    add("--memory-of", default="", help="another data set below --root with which ours is started, to measure memory")
    add("--rounds", type=int)
    add("--seconds", type=float, help="of one load")
    add("--count", type=int, default=10, help="items per request")
    add("--deadline", type=float, default=1.0, help="of closed loops, in seconds: a later answer does not count")
    add("--open-deadline", type=float, default=0.25, help="of open loops")
    add("--budget", type=float, help="budget_seconds of our gateways, in place of the default")
    add(
        "--out",
        type=Path,
        help="where a full race saves its figures; benchmarks/results/serving/DATASET.json if not given",
    )
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (3 if options.short else 5)
    options.seconds = options.seconds or (1.0 if options.short else 3.0)
    options.arguments = list(arguments)
    return options


def main(arguments: Sequence[str], description: str) -> None:
    """Runs a race, prints its tables, and saves its figures."""
    options = options_of(arguments, description)
    if shutil.which("h2load") is None:
        sys.exit("race: h2load is not installed; install Debian's package nghttp2-client")
    if not kernels.COMPILED:
        sys.exit(f"race: kernels are {kernels.form()}; run `make setup` where there is a C compiler")
    with tempfile.TemporaryDirectory() as folder:
        track = Track(options, Path(folder))
        track.run()
    if options.short:
        print(f"{report.ratios(track.race)}\n\n{report.floor_table(track.race)}")
        return
    print(report.text(track.race))
    track.race.save(options.out or CHECKOUT / "benchmarks" / "results" / "serving" / f"{options.dataset}.json")
