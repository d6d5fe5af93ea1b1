"""A result as one table, for the screen and for the page."""

from __future__ import annotations

from offline.evaluation.results import FEWEST_WARM_USERS, Figure
from offline.metrics.text_table import aligned, markdown
from offline.studies.benchmark.results import BenchmarkResult, BenchmarkRow, Difference, GroupRows

_TITLES = {"normalised_recall": "recall (normalised)", "hit_rate": "HR", "ndcg": "NDCG", "mrr": "MRR"}


def text_table(result: BenchmarkResult) -> str:
    """Aligned text: title, rows, groups apart, differences, remarks."""
    lines = [title(result), *aligned(_cells_of(result))]
    for group in result.apart:
        lines += [f"{group_title(group)}:", *aligned(_cells_apart(group, result))]
    return "\n".join([*lines, *_notes(result)])


def markdown_table(result: BenchmarkResult) -> str:
    """The same as Markdown, without the title."""
    parts = [markdown(_cells_of(result))]
    for group in result.apart:
        parts += [f"{group_title(group)}:", markdown(_cells_apart(group, result))]
    notes = "\n".join(f"- {line}" for line in _notes(result))
    return "\n\n".join([*parts, *([notes] if notes else [])])


def title(result: BenchmarkResult) -> str:
    """What was measured on whom."""
    moment = f", asked at the time of the {result.moment}" if result.moment else ""
    return (
        f"{result.protocol}, {result.dataset}, targets {result.targets}{moment}: {result.users:,} {result.group}, "
        f"{result.requests:,} requests, {result.catalogue:,} items"
    )


def metric_title(metric: str) -> str:
    """As tables write it: `NDCG@10`."""
    name, _, k = metric.partition("@")
    return f"{_TITLES.get(name, name)}@{k}"


def group_title(group: GroupRows) -> str:
    """Who they are, and how many."""
    few = _too_few(group.users)
    return f"{group.users:,} {group.group}, {group.requests:,} requests{f' ({few})' if few else ''}"


def _too_few(users: int) -> str:
    least = FEWEST_WARM_USERS
    return f"fewer than {least} users: differences between systems are noise" if users < least else ""


def _cells_of(result: BenchmarkResult) -> list[list[str]]:
    head = [*_head(result), "CPU s", "peak MiB", "note"]
    return [head, *([*_cells(row, result), *_cost(row, result)] for row in result.rows)]


def _cells_apart(group: GroupRows, result: BenchmarkResult) -> list[list[str]]:
    return [_head(result), *(_cells(row, result) for row in group.rows)]


def _head(result: BenchmarkResult) -> list[str]:
    return ["system", "", *(metric_title(metric) for metric in result.metrics), "coverage@10", "popularity@10"]


def _cells(row: BenchmarkRow, result: BenchmarkResult) -> list[str]:
    figures = row.figures or {}
    return [
        row.system,
        row.origin,
        *(_figure(figures.get(metric)) for metric in result.metrics),
        "" if row.coverage is None else f"{row.coverage:.3f}",
        "" if row.popularity is None else f"{row.popularity:.3f}",
    ]


def _cost(row: BenchmarkRow, result: BenchmarkResult) -> list[str]:
    return [
        "" if row.cpu_seconds is None else f"{row.cpu_seconds:,.0f}",
        "" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**20:,.0f}",
        "; ".join(filter(None, (row.note, _over_budget(row, result)))),
    ]


def _over_budget(row: BenchmarkRow, result: BenchmarkResult) -> str:
    """By how much a system overran the budget, where it did."""
    if row.cpu_seconds is None or not result.overran(row):
        return ""
    return f"over the budget: {row.cpu_seconds / 60:,.1f} of {result.budget_minutes:g} CPU-minutes"


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return ""
    if figure.low == figure.high == figure.mean:
        return f"{figure.mean:.4f}"
    return str(figure)


def _notes(result: BenchmarkResult) -> list[str]:
    few = _too_few(result.users)
    return [*([few] if few else []), *(_difference(found, result) for found in result.differences), *result.remarks]


def _difference(found: Difference, result: BenchmarkResult) -> str:
    ratio = result.ratio(found)
    times = "" if ratio is None else f", {ratio:.2f} times"
    return (
        f"{metric_title(found.metric)}: {found.ours} - {found.peer} = {found.mean:+.4f} "
        f"[{found.low:+.4f}, {found.high:+.4f}]{times}, paired over users: {found.verdict}"
    )
