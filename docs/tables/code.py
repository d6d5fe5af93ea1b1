"""Errors, limits, metrics, events, columns, data sets and the bundle, as the code has them."""

from __future__ import annotations

import inspect
from dataclasses import fields

from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel

from gateway.api import validation
from gateway.config import GatewayConfig
from offline.ingest.datasets.layout import Layout
from offline.ingest.datasets.own import INTERACTIONS, ITEMS
from offline.ingest.datasets.registry import PUBLISHED
from offline.publish.publish import ROLE_FOLDERS
from recsys import domain, identity
from recsys.bundle import golden
from recsys.bundle import manifest as bundle
from recsys.config import ServerConfig
from recsys.convert import values
from recsys.errors import CannotStart, DataError
from recsys.server import telemetry
from recsys.server.status import GRPC_CODES
from tables.annotations import kind_of
from tables.markdown import quoted, table


def errors() -> str:
    """Status code and cause of every error that a call can end with."""
    offline = (CannotStart, DataError)
    rows = [
        [quoted(code.name), quoted(kind.__name__), inspect.getdoc(kind) or ""]
        for kind, code in GRPC_CODES.items()
        if not issubclass(kind, offline)
    ]
    return table(["status code", "error", "cause"], sorted(rows))


def limits() -> str:
    """Every limit of the services, from the constants that enforce it."""
    rows = [
        ["items requested, `count`", f"{validation.MAX_COUNT:,}; 0 means {validation.DEFAULT_COUNT}"],
        ["events in `history` of a request", f"{domain.MAX_REQUEST_HISTORY:,}"],
        ["`exclude_item_ids`", f"{validation.MAX_EXCLUDED:,}"],
        ["genres in one list", f"{values.MAX_NAMES:,}"],
        ["events in one `RecordEvents`", f"{validation.MAX_EVENTS:,}"],
        ["characters of `event_id`", f"1 to {validation.MAX_EVENT_ID}"],
        ["bytes of a user or item key", f"1 to {identity.MAX_KEY_BYTES}, UTF-8, no control characters"],
        ["seconds that an event's `time` may be ahead of the gateway's clock", f"{validation.MAX_AHEAD_SECONDS:,}"],
        ["queries in one `Recall` or `Rank`", f"{values.MAX_QUERIES:,}"],
        ["candidates per query of `Recall` or `Rank`", f"{values.MAX_COUNT:,}"],
        ["bytes of a request to the gateway", f"{_mib(GatewayConfig)}; gRPC refuses more: `RESOURCE_EXHAUSTED`"],
        ["bytes of a request to a recall or rank server", f"{_mib(ServerConfig)}; the same"],
    ]
    return table(["what", "limit"], rows)


def _mib(config: type[ServerConfig]) -> str:
    return f"{config.model_fields['max_message_mib'].default} MiB, setting `max_message_mib`"


def metrics() -> str:
    """Every metric of `recsys.server.telemetry` with labels, buckets and help."""
    measured = telemetry.Telemetry.create()
    rows = []
    for field in fields(measured):
        metric = getattr(measured, field.name)
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            labels = vars(metric)["_labelnames"]  # the library has no public way to ask
            name = f"{family.name}_total" if family.type == "counter" else family.name
            rows.append([quoted(name), family.type, ", ".join(map(quoted, labels)) or "–", family.documentation])
    bounds = {"Seconds": telemetry.SECONDS, "Candidates": telemetry.CANDIDATES}
    buckets = [f"{name}: {', '.join(f'{bound:g}' for bound in values)}." for name, values in bounds.items()]
    return table(["name", "type", "labels", "what it counts"], rows) + "\nBuckets.\n" + "\n".join(buckets) + "\n"


def process_metrics() -> str:
    """The metrics that the client library adds to each process."""
    measured = telemetry.Telemetry.create()
    families = [*measured.process.collect(), *measured.platform.collect()]
    rows = [
        [quoted(f"{family.name}_total" if family.type == "counter" else family.name), family.type, family.documentation]
        for family in families
    ]
    return table(["name", "type", "what it says"], rows)


def metrics_sample() -> str:
    """What a gateway's /metrics has after one answer that the vector channel was too late for."""
    measured = telemetry.Telemetry.create()
    measured.rpc_seconds.labels("RecommendationService/Recommend", "OK").observe(0.128)
    for part, seconds in (("queue", 0.0001), ("compute", 0.0008), ("network", 0.0011)):
        measured.stage_seconds.labels("recall:itemcf", part, "ok").observe(seconds)
    measured.stage_seconds.labels("recall:vector", "network", "timeout").observe(0.125)
    measured.stage_candidates.labels("recall:itemcf", "out").observe(200)
    measured.bundle_info.labels("gateway", "20250101-120000-0123456789ab", "active").set(1)
    measured.bundle_loads.labels("gateway", "loaded").inc()
    measured.degraded.labels("recall:vector", "timeout").inc()
    measured.requests.labels("degraded").inc()
    lines = generate_latest(measured.registry).decode().splitlines()
    wanted = [
        line for line in lines if line.startswith("recsys_") and "_bucket{" not in line and "_created" not in line
    ]
    return "```text\n" + "\n".join(wanted) + "\n```\n"


def event_types() -> str:
    """`EVENT_SEMANTICS`."""
    said = {True: "yes", False: "no"}
    rows = [
        [
            quoted(kind.name.lower()),
            str(kind.value),
            said[meaning.counts_as_seen],
            f"{meaning.weight:g}",
            said[meaning.enters_sequence],
            said[meaning.excludes],
        ]
        for kind, meaning in domain.EVENT_SEMANTICS.items()
    ]
    return table(
        ["type", "number", "counts as seen", "weight as evidence", "enters the sequence", "excludes the item"], rows
    )


def interaction_columns() -> str:
    """Columns of the user's own interactions."""
    return _columns(INTERACTIONS)


def item_columns() -> str:
    """Columns of the user's own items."""
    return _columns(ITEMS)


def _columns(layout: Layout) -> str:
    rows = [
        [
            quoted(column.name),
            ", ".join(map(quoted, column.aliases)) or "none",
            "yes" if column.required else "no",
        ]
        for column in layout.columns
    ]
    return table(["column", "other names", "required"], rows)


def datasets() -> str:
    """The published data sets that are read as they ship."""
    rows = [
        [quoted(name), f"{facts.ratings:,}", f"{facts.users:,}", f"{facts.items:,}"]
        for name, facts in ((name, published.facts) for name, published in PUBLISHED.items())
    ]
    return table(["data set", "ratings", "users", "items"], rows)


def manifest() -> str:
    """The manifest, and the objects in it."""
    kinds: tuple[type[BaseModel], ...] = (
        bundle.Manifest,
        bundle.FileEntry,
        bundle.IndexFacts,
        bundle.ServingPolicy,
        bundle.ChannelPolicy,
        bundle.RerankPolicy,
    )
    parts = []
    for kind in kinds:
        rows = [
            [quoted(name), kind_of(field.annotation), field.description or ""]
            for name, field in kind.model_fields.items()
        ]
        parts.append(f"#### {kind.__name__}\n\n{inspect.getdoc(kind)}\n\n" + table(["key", "type", ""], rows))
    return "\n".join(parts)


def roles() -> str:
    """Which folders each process reads."""
    rows = [
        [quoted(role), ", ".join([*(quoted(f"{folder}/") for folder in folders), quoted(golden.golden_file(role))])]
        for role, folders in ROLE_FOLDERS.items()
    ]
    return table(["role", "reads"], rows)
