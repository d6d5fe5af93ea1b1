"""What the offline jobs cost on large logs, what samples lose, and how fast the bundles are served.

    python benchmarks/large.py --root path/to/new-folder [--rows 1000000,10000000,32000000] [--full 1000000] \\
        [--against data/ml-1m/bundles/production] [--save benchmarks/results/large/synthetic.json]

For each size `offline run --dataset synthetic` with default settings, under `memory.py`; then, for the sizes of
`--full`, `offline evaluate` of models that leave nothing out; then the servers of all production bundles and of the one
named by `--against` in turn, one request at a time. What has been run below `--root` is not run again. The users of the
figures are the test's known ones, 10,000 at most, the same with and without samples.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from race.figures import Spread
from race.report import table as markdown
from race.rounds import closed
from race.servers import CHECKOUT, Checkout, Setting
from race.track import commit_of
from race.users import LOADED, by_history_length

from offline.studies.benchmark.machine import machine, versions

SYSTEMS = ("popularity", "itemcf", "vector", "blended", "ranked")
NO_SAMPLES = {
    "--samples.max-users": 10**6,
    "--blend.max-users": 10**6,
    "--split.enough-users": 10**9,
    "--two-tower.pooled.max-examples": 10**9,
    "--two-tower.pooled.sampled-negatives": 10**6,
}
"""Settings under which nothing of what is trained is a sample."""


def measured(root: Path, verb: Sequence[str], rows: int) -> dict[str, Any]:
    """Cost and figures of `offline` with these arguments; those of an earlier run where it has been run."""
    root.mkdir(parents=True, exist_ok=True)
    cost, log = root / f"{rows}.json", root / f"{rows}.log"
    command = [*verb, "--dataset", "synthetic", "--rows", str(rows), "--root", str(root)]
    if not cost.exists():
        print(f"offline {' '.join(command)}; its log is {log}", flush=True)
        unfinished, continued = cost.with_suffix(".part"), (root / f"synthetic-{rows}").exists()
        memory = [sys.executable, str(Path(__file__).with_name("memory.py")), "--out", str(unfinished), "--"]
        with log.open("w") as lines:
            subprocess.run([*memory, sys.executable, "-m", "offline", *command], stdout=lines, stderr=lines, check=True)
        facts = {"commit": commit_of(CHECKOUT), "continued": continued}
        unfinished.write_text(json.dumps(json.loads(unfinished.read_text()) | facts) + "\n")
        unfinished.rename(cost)
    found = json.loads(cost.read_text())
    reports = (root / f"synthetic-{rows}" / "work").glob("evaluation-*/report/headline.json")
    name_of_report = next(line for line in reversed(log.read_text().splitlines()) if "the whole report" in line)
    figures = next(json.loads(path.read_text()) for path in reports if str(path.parent) in name_of_report)
    return {
        "command": f"offline {' '.join(verb)} --dataset synthetic --rows {rows}",
        "commit": found["commit"],
        "continued": found["continued"],
        "wall_seconds": found["wall_seconds"],
        "cpu_seconds": found["cpu_seconds"],
        "peak_mib": found["peak_mib"],
        "ndcg@10": {system: figures[f"{system}.warm.ndcg@10"] for system in SYSTEMS},
    }


def latencies(stores: Mapping[str, Path], rounds: int, seconds: float) -> dict[str, list[float]]:
    """By name of a store, p50 in milliseconds of each round, one request in flight. The first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in stores}
    with tempfile.TemporaryDirectory() as folder:
        servers = [Checkout(name, Setting(store.absolute(), Path(folder))) for name, store in stores.items()]
        users = {name: list(by_history_length(store, LOADED)) for name, store in stores.items()}
        try:
            for server in servers:
                server.start()
            for number in range(rounds + 1):
                for server in servers:
                    loop = closed(server, users[server.name], in_flight=1, seconds=seconds)
                    if number:
                        found[server.name].append(loop.p50_ms)
        finally:
            for server in servers:
                server.stop()
    return found


def exponent(by_rows: Mapping[int, float]) -> float:
    """Of the power of the rows by which a cost grows between the two largest sizes."""
    (fewer, less), (more, much) = sorted(by_rows.items())[-2:]
    return math.log(much / less) / math.log(more / fewer)


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    served = {name: statistics.median(values) for name, values in result["served_p50_ms"].items()}
    rows = []
    for size, run in result["runs"].items():
        ndcg, full = run["ndcg@10"], result["full"].get(size)
        whole = full["ndcg@10"]["ranked"] if full else math.nan
        rows.append(
            [
                f"{int(size):,}{' (continued: costs are too low)' if run['continued'] else ''}",
                *(f"{run['wall_seconds'] / 60:.1f}", f"{run['cpu_seconds'] / 60:.1f}"),
                f"{run['peak_mib']['Pss'] / 1024:.1f}",
                *(f"{ndcg[system]:.4f}" for system in SYSTEMS),
                *(f"{whole:.4f} ({ndcg['ranked'] / whole:.3f} kept)" if full else "", f"{served[size]:.1f}"),
            ]
        )
    header = ["ratings", "minutes", "CPU minutes", "peak GiB", *SYSTEMS, "ranked, no samples", "served p50, ms"]
    lines = [markdown(header, rows), ""]
    for name, field in (("time", "wall_seconds"), ("CPU time", "cpu_seconds")):
        costs = {int(size): run[field] for size, run in result["runs"].items()}
        if len(costs) > 1:
            lines.append(f"- {name} grows between the last two sizes as ratings^{exponent(costs):.2f}")
    largest = list(result["runs"])[-1]
    for name in served.keys() - result["runs"].keys():
        ratio = Spread.of_ratios(result["served_p50_ms"][largest], result["served_p50_ms"][name])
        spread = f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        lines.append(f"- served p50 of {int(largest):,} ratings ÷ that of {name}, {served[name]:.1f} ms: {spread}")
    return "\n".join(lines)


def main() -> None:
    """Runs, prints a table, and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder for data, bundles and logs")
    parser.add_argument("--rows", default="1000000,10000000,32000000", help="sizes, separated by commas")
    parser.add_argument("--full", default="1000000", help="sizes that are also trained on everything; may be empty")
    parser.add_argument("--against", type=Path, default=None, help="store of a bundle that is served for comparison")
    parser.add_argument("--rounds", type=int, default=5, help="of serving")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one round")
    parser.add_argument("--save", type=Path, default=None, help="file for the figures, as JSON")
    options = parser.parse_args()
    sizes, full = ([int(rows) for rows in filter(None, text.split(","))] for text in (options.rows, options.full))
    everything = [str(part) for setting in NO_SAMPLES.items() for part in setting]
    result = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "versions": versions(),
        "runs": {str(rows): measured(options.root, ["run"], rows) for rows in sizes},
        "full": {str(rows): measured(options.root / "full", ["evaluate", *everything], rows) for rows in full},
    }
    stores = {str(rows): options.root / f"synthetic-{rows}" / "bundles" / "production" for rows in sizes}
    if options.against is not None:
        stores[options.against.parents[1].name] = options.against
    result["served_p50_ms"] = latencies(stores, options.rounds, options.seconds)
    print(table(result))
    if options.save is not None:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
