"""What a command takes: CPU and wall-clock time, and the most memory that it and all of its children held at once.

    python benchmarks/memory.py --out memory.json -- python -m offline run --dataset synthetic --rows 32000000

Memory is the sum of the proportional set sizes (PSS) of the process tree, read every half second: pages that processes
share count once. File pages that are mapped are included, although the system can take those back.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from offline.steps.cost import cpu_seconds

INTERVAL_SECONDS = 0.5
FIELDS = ("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem")


def main() -> None:
    """Runs the command and passes its exit code on."""
    parser = argparse.ArgumentParser(description="CPU time, wall-clock time and peak PSS of a command and its children")
    parser.add_argument("--out", type=Path, default=None, help="file for the figures and the curve, as JSON")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ARGUMENT …")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command; put one after --")
    started = time.monotonic()
    child = subprocess.Popen(command)
    curve: list[tuple[float, dict[str, int]]] = []
    while child.poll() is None:
        curve.append((round(time.monotonic() - started, 1), held(child.pid)))
        time.sleep(INTERVAL_SECONDS)
    at, peak = max(curve, key=lambda point: point[1]["Pss"])
    figures = {
        "command": command,
        "exit_code": child.returncode,
        "wall_seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(cpu_seconds(), 1),
        "peak_mib": {name: size >> 20 for name, size in peak.items()},
        "peak_at_seconds": at,
    }
    print(json.dumps(figures), file=sys.stderr)
    if options.out is not None:
        points = [[moment, *(found[name] >> 20 for name in FIELDS)] for moment, found in curve]
        options.out.write_text(json.dumps({**figures, "curve": [["seconds", *FIELDS], *points]}) + "\n", "utf-8")
    sys.exit(child.returncode)


def held(pid: int) -> dict[str, int]:
    """Bytes by field of proc_pid_smaps_rollup(5), summed over the process and its children."""
    total = dict.fromkeys(FIELDS, 0)
    for process in tree(pid):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text("ascii").splitlines()
        except OSError:  # it has ended
            continue
        for line in lines:
            name, _, rest = line.partition(":")
            if name in total:
                total[name] += int(rest.split()[0]) << 10
    return total


def tree(pid: int) -> Iterator[int]:
    """The process and all its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text("ascii").split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child))


if __name__ == "__main__":
    main()
