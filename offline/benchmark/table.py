"""A result as one table, for the screen and for the page."""

from __future__ import annotations

from offline.benchmark.results import BenchmarkResult, BenchmarkRow
from offline.evaluation import Figure

_TITLES = {"normalised_recall": "recall (normalised)", "hit_rate": "HR", "ndcg": "NDCG", "mrr": "MRR"}


def text_table(result: BenchmarkResult) -> str:
    """Aligned text: title, rows, differences, remarks."""
    cells = [_head(result), *(_cells(row, result) for row in result.rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([title(result), *rows, *_differences(result), *result.remarks])


def markdown_table(result: BenchmarkResult) -> str:
    """The same as Markdown, without the title."""
    lines = [_head(result), ["---"] * len(_head(result)), *(_cells(row, result) for row in result.rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = [f"- {line}" for line in (*_differences(result), *result.remarks)]
    return "\n".join([table, "", *notes]) if notes else table


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


def _head(result: BenchmarkResult) -> list[str]:
    metrics = [metric_title(metric) for metric in result.metrics]
    return ["system", "", *metrics, "coverage@10", "popularity@10", "CPU s", "peak MiB", "note"]


def _cells(row: BenchmarkRow, result: BenchmarkResult) -> list[str]:
    figures = row.figures or {}
    return [
        row.system,
        row.origin,
        *(_figure(figures.get(metric)) for metric in result.metrics),
        "" if row.coverage is None else f"{row.coverage:.3f}",
        "" if row.popularity is None else f"{row.popularity:.3f}",
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
    return f"{figure.mean:.4f} [{figure.low:.4f}, {figure.high:.4f}]"


def _differences(result: BenchmarkResult) -> list[str]:
    return [
        f"{metric_title(found.metric)}: {found.ours} - {found.peer} = {found.mean:+.4f} "
        f"[{found.low:+.4f}, {found.high:+.4f}], paired over users: {found.verdict}"
        for found in result.differences
    ]
