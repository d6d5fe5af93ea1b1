"""The results of benchmarks, as they are committed: one part per result, the headline, and the list of their pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from offline.evaluation.evaluate import RANKED
from offline.evaluation.results import Figure
from offline.studies.benchmark.loss_result import LossResult, losses_section
from offline.studies.benchmark.report import ordered_results, result_section
from offline.studies.benchmark.results import BenchmarkResult, BenchmarkRow, of_origin
from offline.studies.benchmark.table import heading, metric_title
from offline.studies.rerank.result import RerankResult, rerank_section
from tables.markdown import table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "results"

EARLIER_SEARCHES: Mapping[str, BenchmarkRow] = {
    "time-to-split-ml-1m-timed-all": BenchmarkRow(
        "ease (RecTools 0.19.0), earlier search", "peer", {"ndcg@10": Figure(0.2979, 0.2979, 0.2979)}, cpu_seconds=90
    ),
}
"""By name of a result, a peer's row of an earlier run that is quoted where no peer of the result itself is better."""


def sections() -> dict[str, Callable[[], str]]:
    """By name of its part, what makes the table of each committed result."""
    found: dict[str, Callable[[], str]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        found[path.stem] = partial(_benchmark, path)
    for path in sorted(RESULTS.glob("rerank/*.json")):
        found[path.stem] = partial(_rerank, path)
    for path in sorted(RESULTS.glob("losses/*.json")):
        found[f"losses-{path.stem}"] = partial(_losses, path)
    for path in sorted(RESULTS.glob("rankers/*.json")):
        found[f"rankers-{path.stem}"] = partial(_rankers, path)
    return {f"result-{name}": make for name, make in found.items()}


def result_pages() -> str:
    """A list of all pages of results, with their titles, for the index."""
    titles = {
        path: path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for path in PAGES.glob("*.md")
    }
    return "".join(f"- [{titles[path]}](results/{path.name})\n" for path in sorted(titles))


def headline() -> str:
    """Of every result with peers, its first metric: the ranked order and our best channel against the best peer."""
    header = ["protocol and data", "metric", "ours", "best tuned peer", "ratio", "difference, paired", "CPU-minutes"]
    results = [result for result in ordered_results(RESULTS) if _peers(result)]
    earlier = [_earlier_note(result) for result in results if _best_peer(result) is EARLIER_SEARCHES.get(result.name)]
    return "\n".join([table(header, [row for result in results for row in _headline_rows(result)]), *earlier])


def _headline_rows(result: BenchmarkResult) -> list[list[str]]:
    best_channel = max(of_origin(result.rows, "channel"), key=lambda row: _mean(row, result))
    link = f"[{heading(result)}](results/{result.name}.md)"
    return [
        [link, metric_title(result.metrics[0]), *_against(row, _best_peer(result), result)]
        for row in (result.row(RANKED), best_channel)
    ]


def _against(ours: BenchmarkRow, peer: BenchmarkRow, result: BenchmarkResult) -> list[str]:
    """The cells of one of our systems next to the best peer."""
    mean, other = _mean(ours, result), _mean(peer, result)
    difference = f"{mean - other:+.4f}, not paired"
    for found in result.differences:
        if found.pair == (ours.system, peer.system) and found.metric == result.metrics[0]:
            difference = f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    minutes = [f"{(row.cpu_seconds or 0) / 60:.1f}" for row in (ours, peer)]
    best = f"{peer.system} {other:.4f}, of {len(_peers(result))}"
    return [f"{ours.system} {mean:.4f}", best, f"{mean / other:.2f}", difference, " and ".join(minutes)]


def _peers(result: BenchmarkResult) -> list[BenchmarkRow]:
    return [row for row in of_origin(result.rows, "peer") if row.figures]


def _best_peer(result: BenchmarkResult) -> BenchmarkRow:
    """The best peer by the first metric, an earlier search of one included."""
    earlier = EARLIER_SEARCHES.get(result.name)
    return max([*_peers(result), *([earlier] if earlier else [])], key=lambda row: _mean(row, result))


def _earlier_note(result: BenchmarkResult) -> str:
    """What is on record where an earlier search of a peer is quoted instead."""
    own = max(_peers(result), key=lambda row: _mean(row, result))
    ratio = _mean(result.row(RANKED), result) / _mean(own, result)
    return (
        f"On {heading(result)}, a peer was searched twice: {EARLIER_SEARCHES[result.name].system} did better on the\n"
        "test than the search on record, so the table quotes it; its lists were not kept, so no interval is paired.\n"
        f"The best peer on record is {own.system} with {_mean(own, result):.4f}: `ranked` is {ratio:.2f} times that.\n"
    )


def _mean(row: BenchmarkRow, result: BenchmarkResult) -> float:
    """A row's figure of the result's first metric; 0 for a system that was not run."""
    return row.figures[result.metrics[0]].mean if row.figures else 0.0


def _benchmark(path: Path) -> str:
    return result_section(BenchmarkResult.load(path))


def _rerank(path: Path) -> str:
    return rerank_section(RerankResult.load(path))


def _losses(path: Path) -> str:
    return losses_section(LossResult.load(path))


def _rankers(path: Path) -> str:
    rows = [
        [
            row["ranker"],
            f"{row['ndcg']:.4f}",
            f"{row['share']:.3f}",
            "[{:+.4f}, {:+.4f}]".format(*row["difference"]),
            ", ".join(f"{name} {value:g}" for name, value in row["settings"].items()),
        ]
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]
    ]
    return table(["ranker", "NDCG@10", "share", "less LightGBM", "chosen"], rows)
