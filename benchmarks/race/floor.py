"""CPU time per request of one process and one thread, without any server.

    PYTHONPATH=CHECKOUT:benchmarks python -m race.floor --bundles ROOT --users ID,…

For each line `BATCH SECONDS` on standard input it prints the milliseconds per request of that many CPU seconds.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

from race.in_process import InProcess


def milliseconds(recommender: InProcess, user_ids: list[int], *, batch: int, seconds: float, count: int) -> float:
    """CPU milliseconds per request, in batches of `batch` users in turn, for `seconds` of CPU time."""
    users = itertools.cycle(user_ids)
    started, done = time.process_time(), 0
    while (taken := time.process_time() - started) < seconds or done % len(user_ids):
        recommender.bodies([next(users) for _ in range(batch)], count)
        done += batch
    return taken / done * 1e3


def main() -> None:
    """Measures until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, required=True, help="root of a bundle store")
    parser.add_argument("--users", required=True, help="their ids, separated by commas")
    parser.add_argument("--count", type=int, default=10, help="items per request")
    options = parser.parse_args()
    recommender, users = InProcess.open(options.bundles), [int(user_id) for user_id in options.users.split(",")]
    milliseconds(recommender, users, batch=1, seconds=0.5, count=options.count)  # warm-up
    print("ready", flush=True)
    for line in sys.stdin:
        batch, seconds = line.split()
        print(
            milliseconds(recommender, users, batch=int(batch), seconds=float(seconds), count=options.count), flush=True
        )


if __name__ == "__main__":
    main()
