"""Latency of the served system at a fixed rate, with each stage's share.

    python benchmarks/latency.py --dataset ml-1m --root data [--rate 20] [--seconds 60]

Starts the servers on the published bundle, sends `debug` requests of random users in an open loop
(latency counts from the moment a request was due), and prints percentiles, the median time of every stage, and how
many candidates were merged and ranked. Client and servers share the machine: say so next to any figure.

`same_work_ms` tells machines apart: a fixed piece of Python and numpy, timed in a row, after 20 ms of rest and after 20
ms of a busy loop. At 20 requests/s every process rests between requests, so where the second is much the larger, so is
the latency; where the third is like the second, it is not sleep that costs but what others do to the caches meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gateway.bundle.state import StoredHistories
from offline.evaluation.open_loop import TimedAnswer, percentiles, send_at_rate, stage_shares
from offline.local.serve import served
from recsys.bundle import BundleStore
from recsys.v1.recommend_pb2 import RecommendRequest

WARM_UP = 100
REST_SECONDS = 0.02


def requests_of(histories: StoredHistories, n: int, count: int, seed: int) -> list[RecommendRequest]:
    """Requests of users drawn with the seed."""
    users = np.random.default_rng(seed).choice(histories.user_ids, n)
    return [RecommendRequest(user_id=int(user), count=count, debug=True) for user in users]


def candidates(samples: Sequence[TimedAnswer], stage: str, side: str) -> dict[str, float]:
    """Median and least number of candidates that went in to or came out of a stage."""
    found = [
        getattr(report, f"candidates_{side}")
        for sample in samples
        if sample.response is not None
        for report in sample.response.stages
        if report.name == stage
    ]
    return {"median": float(np.median(found)), "min": float(min(found))} if found else {}


def busy_loop(seconds: float) -> None:
    """Keeps the processor awake, and does nothing else."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def same_work(repetitions: int = 200) -> dict[str, float]:
    """Median milliseconds of one fixed piece of work: done in a row, and after a pause of either kind each time."""
    text = json.dumps([{"item": number, "scores": [1.5, 2.0, 3.0], "title": "x" * 10} for number in range(300)])

    def milliseconds(pause: Callable[[float], None] | None) -> float:
        if pause is not None:
            pause(REST_SECONDS)
        started = time.perf_counter()
        scores = np.asarray([entry["item"] for entry in json.loads(text)], np.float64)
        for _ in range(30):
            scores = np.sort(scores)[::-1] + 1
        return (time.perf_counter() - started) * 1e3

    pauses = {"in a row": None, "after a rest": time.sleep, "after a busy loop": busy_loop}
    return {
        name: round(float(np.median([milliseconds(pause) for _ in range(repetitions)])), 3)
        for name, pause in pauses.items()
    }


def main() -> None:
    """Runs the benchmark and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--purpose", choices=("production", "evaluation"), default="production", help="which bundle")
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--count", type=int, default=10, help="items per request")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    store = BundleStore(options.root / options.dataset / "bundles" / options.purpose)
    histories = StoredHistories.open(store.open(store.release().current).folder)
    n = int(options.rate * options.seconds)
    with tempfile.TemporaryDirectory() as folder, served(store, folder=Path(folder)) as target:
        warm_up = requests_of(histories, WARM_UP, options.count, options.seed + 1)
        asyncio.run(send_at_rate(target, warm_up, rate=options.rate))
        requests = requests_of(histories, n, options.count, options.seed)
        samples = asyncio.run(send_at_rate(target, requests, rate=options.rate))
    print(
        json.dumps(
            {
                "dataset": options.dataset,
                "bundle": store.release().current,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, client included",
                "same_work_ms": same_work(),
                "rate_per_second": options.rate,
                "requests": n,
                "errors": sum(bool(sample.error) for sample in samples),
                "degraded": sum(sample.response.degraded for sample in samples if sample.response is not None),
                "latency_ms": percentiles(samples),
                "stage_median_ms": {name: value / 1e3 for name, value in stage_shares(samples).items()},
                "merged": candidates(samples, "merge", "out"),
                "ranked": candidates(samples, "rank", "out"),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
