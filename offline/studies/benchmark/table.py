"""A result as one table, for the screen and for the page."""

from __future__ import annotations

from dataclasses import replace

from offline.evaluation.evaluate import RANKED
from offline.evaluation.results import MIN_WARM_USERS, Figure
from offline.metrics.text_table import aligned, markdown
from offline.studies.benchmark.results import BenchmarkResult, BenchmarkRow, GroupRows, PairedDifference, of_origin

_TITLES = {"normalised_recall": "recall (normalised)", "hit_rate": "HR", "ndcg": "NDCG", "mrr": "MRR"}


def text_table(result: BenchmarkResult) -> str:
    """Aligned text: title, rows, groups apart, differences, remarks."""
    lines = [title(result), *aligned(_cells_of(result))]
    for group in result.apart:
        lines += [f"{group_title(group)}:", *aligned(_cells_apart(group, result))]
    return "\n".join([*lines, *_notes(result)])


def markdown_table(result: BenchmarkResult) -> str:
    """The same as Markdown, for a page: systems without figures in one line, and only the differences that decide."""
    shown = replace(result, rows=tuple(row for row in result.rows if row.figures))
    parts = [markdown(_cells_of(shown)), _not_run(result)]
    for group in result.apart:
        parts += [f"{group_title(group)}:", markdown(_cells_apart(group, result))]
    parts += [_differences_table(result), "\n".join(f"- {line}" for line in (*_few(result), *result.remarks))]
    return "\n\n".join(filter(None, parts))


def title(result: BenchmarkResult) -> str:
    """What was measured, and on which users."""
    return f"{heading(result)}: {counts(result)}"


def heading(result: BenchmarkResult) -> str:
    """Protocol, data set, targets, and the moment of requests where it is not the protocol's own."""
    moment = f", asked at the time of the {result.moment}" if result.moment else ""
    return f"{result.protocol}, {result.dataset}, targets {result.targets}{moment}"


def counts(result: BenchmarkResult) -> str:
    """How many users, requests and items."""
    return f"{result.users:,} {result.group}, {result.requests:,} requests, {result.catalogue:,} items"


def deciding_differences(result: BenchmarkResult) -> list[PairedDifference]:
    """Of the first two metrics: `ranked` and our best channel, against the best peer and each other."""
    channels = {row.system for row in of_origin(result.rows, "channel")}
    best = {found.metric: found.peer for found in result.differences if found.ours == RANKED and found.peer in channels}
    peers = {row.system for row in of_origin(result.rows, "peer")}
    return [
        found
        for found in result.differences
        if found.metric in result.metrics[:2]
        and found.ours in (RANKED, best.get(found.metric))
        and found.peer in peers | {best.get(found.metric)}
    ]


def metric_title(metric: str) -> str:
    """As tables write it: `NDCG@10`."""
    name, _, k = metric.partition("@")
    return f"{_TITLES.get(name, name)}@{k}"


def group_title(group: GroupRows) -> str:
    """Who they are, and how many."""
    few = _too_few(group.users)
    return f"{group.users:,} {group.group}, {group.requests:,} requests{f' ({few})' if few else ''}"


def _too_few(users: int) -> str:
    least = MIN_WARM_USERS
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


def _not_run(result: BenchmarkResult) -> str:
    """Which systems have no figures, by reason."""
    by_reason: dict[str, list[str]] = {}
    for row in result.rows:
        if not row.figures:
            by_reason.setdefault(row.note.removeprefix("not run: "), []).append(row.system)
    listed = "; ".join(f"{', '.join(systems)} ({reason})" for reason, systems in by_reason.items())
    return f"Not run: {listed}." if listed else ""


def _differences_table(result: BenchmarkResult) -> str:
    """The deciding differences; empty where there is none."""
    rows = [
        [
            metric_title(found.metric),
            found.ours,
            found.peer,
            f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]",
            "" if (ratio := result.ratio(found)) is None else f"{ratio:.2f}",
            found.verdict,
        ]
        for found in deciding_differences(result)
    ]
    return markdown([["metric", "system", "against", "difference, paired", "ratio", ""], *rows]) if rows else ""


def _notes(result: BenchmarkResult) -> list[str]:
    return [*_few(result), *(_difference(found, result) for found in result.differences), *result.remarks]


def _few(result: BenchmarkResult) -> list[str]:
    few = _too_few(result.users)
    return [few] if few else []


def _difference(found: PairedDifference, result: BenchmarkResult) -> str:
    ratio = result.ratio(found)
    times = "" if ratio is None else f", {ratio:.2f} times"
    return (
        f"{metric_title(found.metric)}: {found.ours} - {found.peer} = {found.mean:+.4f} "
        f"[{found.low:+.4f}, {found.high:+.4f}]{times}, paired over users: {found.verdict}"
    )
