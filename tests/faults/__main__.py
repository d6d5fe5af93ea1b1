"""Causes faults for real while a system serves: `python -m tests.faults [FAULT…]`, or `make faults ARGS=…`.

Without names every fault is caused, one after another, each on a system of its own. A progress line says what happens;
in the end a table says what callers saw. The exit code is 1 if a bar was broken. See docs/results/faults.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from pathlib import Path

from tests.faults import kills, report
from tests.faults.bundles import bundles
from tests.faults.catalogue import FAULTS
from tests.faults.contract import Row
from tests.faults.runner import FULL, SHORT, run_fault


def main() -> int:
    """0 if every bar was held."""
    options = _parse()
    names = [name for name in FAULTS if any(fnmatch.fnmatch(name, pattern) for pattern in options.faults)]
    if options.list:
        print("\n".join(f"{name:<22} {fault.about}" for name, fault in FAULTS.items()))
        return 0
    started, rows = time.monotonic(), []

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", flush=True)

    with bundles(options.bundle_root) as (root, folder):
        if options.kills:
            rows.append(kills.run(root, folder / "kills", options.kills, options.seed, say=say))
        for name in [] if options.kills else names:
            row = run_fault(FAULTS[name], root, folder / name, SHORT if options.short else FULL, say=say)
            say(f"{name}: {row.not_possible or '; '.join(row.problems) or 'held'} {row.errors or ''}")
            rows.append(row)
            if options.save is not None:
                report.save(options.save, report.result(rows, str(options.bundle_root or "checkerboard")))
    return _conclude(rows)


def _conclude(rows: list[Row]) -> int:
    if not rows:
        print("no fault of that name; --list shows them", file=sys.stderr)
        return 2
    print("\n".join(report.lines(rows)))
    return int(any(row.problems for row in rows))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument("faults", nargs="*", default=["*"], help="names or patterns, for example 'events-*'")
    parser.add_argument("--list", action="store_true", help="only say which faults there are")
    parser.add_argument("--short", action="store_true", help="seconds instead of half a minute each")
    parser.add_argument("--bundle-root", type=Path, help="published bundles to serve; default: a small one")
    parser.add_argument("--save", type=Path, help="JSON file of results, for the table of docs/results/faults.md")
    parser.add_argument("--kills", type=int, default=0, help="instead: so many kill -9 at random moments")
    parser.add_argument("--seed", type=int, default=1, help="of --kills")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
