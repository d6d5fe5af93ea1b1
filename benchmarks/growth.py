"""How CPU and memory of a request grow with the catalogue, and what the indexes find of what a scan finds.

    python benchmarks/growth.py --bundles data/ml-1m/bundles/production --root path/to/new-folder \\
        [--items 4000,62000,300000,1000000] [--rounds 7] [--save benchmarks/results/growth/ml-1m.json]

Enlarges the released bundle to each size (`enlarge.py`; those that are below `--root` already are used again), starts
one process per size (`growth_worker.py`), and measures all of them in turn, round by round, so that other work on the
machine hits all alike. Figures are CPU time, medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from copies import local_dimension
from enlarge import enlarge
from race.figures import Spread
from race.report import table as markdown
from race.servers import CHECKOUT
from race.track import commit_of

from offline.studies.benchmark.machine import machine, versions
from recall_server.channels import als, content, vector
from recsys.arrays import open_array
from recsys.bundle import Bundle, BundleStore

VECTORS = {"vector": vector.VECTORS_FILE, "als": als.FACTORS_FILE, "content": content.VECTORS_FILE}


class Worker:
    """A process that measures one catalogue."""

    def __init__(self, bundles: Path, users: int) -> None:
        program = Path(__file__).with_name("growth_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), "--bundles", str(bundles), "--users", str(users)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # as in a server
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._read()

    def ask(self, what: str) -> Any:
        """What it says to one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with exit code {self._process.wait(60)}; see above")
        return json.loads(line)


def store_of(bundle: Bundle, items: int, root: Path, seed: int) -> Path:
    """The store of the bundle with so many items; it is made where there is none yet."""
    store = BundleStore(root / f"{bundle.folder.name}-{items}-{seed}")
    if not store.versions():
        store.root.mkdir(parents=True, exist_ok=True)
        started = time.process_time()
        enlarge(bundle, items, store.root, seed=seed)
        print(f"{items} items: made in {time.process_time() - started:.0f} CPU seconds", flush=True)
    return store.root


def facts_of(bundles: Path) -> dict[str, Any]:
    """What does not need a process: widths of the indexes, sizes, and in how many directions vectors vary."""
    store = BundleStore(bundles)
    bundle = store.open(store.release().current)
    rng, found = np.random.default_rng(0), {}
    for name, file in VECTORS.items():
        if bundle.has(file):
            facts = bundle.folder / f"{name}/{'facts' if name == 'vector' else 'index'}.json"
            width = json.loads(facts.read_text("utf-8"))["ef"] if facts.is_file() else None
            dimension = round(local_dimension(open_array(bundle.path(file)), rng), 1)
            found[name] = {"width": width, "local_dimension": dimension}
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    return {"indexes": found, "bundle_mib": round(size / 2**20)}


def measure(workers: Sequence[Worker], rounds: int) -> dict[str, list[list[float]]]:
    """By task, for each worker the CPU microseconds per request of every round; the first round is not counted."""
    tasks = workers[0].facts["tasks"]
    figures: dict[str, list[list[float]]] = {name: [[] for _ in workers] for name in tasks}
    for number in range(rounds + 1):
        for name in tasks:
            for place, worker in enumerate(workers):
                microseconds = worker.ask(name)
                if number:
                    figures[name][place].append(microseconds)
    return figures


def main() -> None:
    """Makes the bundles, measures, prints a table, and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, required=True, help="store whose released bundle is enlarged")
    parser.add_argument("--root", type=Path, required=True, help="folder for the stores of enlarged bundles")
    parser.add_argument("--items", default="4000,62000,300000,1000000", help="sizes, separated by commas")
    parser.add_argument("--users", type=int, default=64, help="requests of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, default=None, help="file for the figures, as JSON")
    options = parser.parse_args()
    base, sizes = BundleStore(options.bundles), [int(size) for size in options.items.split(",")]
    bundle = base.open(base.release().current)
    stores = [store_of(bundle, size, options.root, options.seed) for size in sizes]
    workers = [Worker(store, options.users) for store in stores]
    figures = measure(workers, options.rounds)
    columns = []
    for size, store, worker in zip(sizes, stores, workers, strict=True):
        said = {"items": size, **facts_of(store), "memory_mib": worker.ask("memory"), "recall": worker.ask("recall")}
        columns.append({**said, **{key: value for key, value in worker.facts.items() if key != "tasks"}})
        worker.close()
    result = {
        "command": f"python benchmarks/growth.py --bundles data/{bundle.manifest.dataset}/bundles/production "
        f"--root path/to/new-folder --items {options.items} --rounds {options.rounds}",
        "dataset": bundle.manifest.dataset,
        "bundle": bundle.folder.name,
        "commit": commit_of(CHECKOUT),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "versions": versions(),
        "users": options.users,
        "columns": columns,
        "microseconds": figures,
    }
    print(table(result))
    if options.save is not None:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table(result: Mapping[str, Any]) -> str:
    """CPU by task and size with its growth from the smallest, and what else is known of each size, as Markdown."""
    columns = result["columns"]
    rows = [[f"µs: {task}", *growth_of(rounds)] for task, rounds in result["microseconds"].items()]
    rows += [
        [f"recall@100: {name}", *(f"{column['recall'][name]:.4f}" for column in columns)]
        for name in columns[0]["recall"]
    ]
    for name in columns[0]["indexes"]:
        found = [column["indexes"][name] for column in columns]
        rows.append([f"width of the search: {name}", *(str(entry["width"] or "scan") for entry in found)])
        rows.append([f"directions of the vectors: {name}", *(str(entry["local_dimension"]) for entry in found)])
    for title, value in OTHERS.items():
        rows.append([title, *(value(column) for column in columns)])
    return markdown(["", *(f"{column['items']:,} items" for column in columns)], rows)


def growth_of(rounds: Sequence[Sequence[float]]) -> list[str]:
    """Median of each size, and the median of how many times the first size's it is, round by round."""
    first = rounds[0]
    grown = [f"{statistics.median(part):.0f} ({Spread.of_ratios(part, first).median:.2f} ×)" for part in rounds[1:]]
    return [f"{statistics.median(first):.0f}", *grown]


OTHERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "ms: first request of a filter": lambda column: f"{column['first_filter_us'] / 1e3:.1f}",
    "MiB: memory of its own": lambda column: f"{column['memory_mib']['own']:.0f}",
    "MiB: mapped": lambda column: f"{column['memory_mib']['mapped']:.0f}",
    "MiB: bundle": lambda column: str(column["bundle_mib"]),
    "CPU seconds: loading": lambda column: f"{column['load_seconds']:.1f}",
}
"""By title, what else a column says."""


if __name__ == "__main__":
    main()
