"""Every metric of a process, in one place. Each process is one scrape target with a registry of its own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Self, cast
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from recsys.errors import CannotStart
from recsys.logs import lines_dropped

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Upper bounds of the latency buckets."""

CANDIDATES = (0, 1, 10, 25, 50, 100, 150, 200, 250, 300, 400, 500, 750, 1_000, 2_000)
"""Upper bounds of the candidate buckets."""

BATCH_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256)
"""Upper bounds of the buckets of batch sizes."""


class _BoundOnce(MetricWrapperBase):
    """A metric that remembers its children: to look one up costs more than to observe. They are never removed."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._bound: dict[tuple[str, ...], Self] = {}
        super().__init__(*arguments, **named)

    def labels(self, *values: str) -> Self:  # type: ignore[override]  # by position only
        """The child with these values of the labels, in order."""
        child = self._bound.get(values)
        if child is None:
            child = self._bound[values] = super().labels(*values)
        return child


class _Counter(_BoundOnce, Counter): ...


class _Histogram(_BoundOnce, Histogram):
    """A histogram for one thread, the event loop's: it counts without the locks that the library's has, at a quarter of
    the cost, and its bucket is found by bisection.
    """

    def _metric_init(self) -> None:
        self._counts = [0] * len(self._upper_bounds)
        self._total = 0.0

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Counts one value."""
        del exemplar
        self._total += amount
        self._counts[bisect_left(self._upper_bounds, amount)] += 1

    def _child_samples(self) -> list[Sample]:
        up_to = list(accumulate(self._counts))
        buckets = [
            Sample("_bucket", {"le": floatToGoString(bound)}, count, None, None)  # type: ignore[no-untyped-call]
            for bound, count in zip(self._upper_bounds, up_to, strict=True)
        ]
        return [*buckets, Sample("_count", {}, up_to[-1], None, None), Sample("_sum", {}, self._total, None, None)]


class _LogLinesDropped(Counter):
    """Is counted where logs are written."""

    def _child_samples(self) -> list[Sample]:
        return [Sample("_total", {}, lines_dropped(), None, None)]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The metrics of one process. Labels are fixed; their values are few and known in advance."""

    registry: CollectorRegistry
    rpc_seconds: Histogram
    rpc_in_flight: Gauge
    stage_seconds: Histogram
    stage_candidates: Histogram
    batch_size: Histogram
    bundle_info: Gauge
    bundle_loads: Counter
    degraded: Counter
    requests: Counter
    answers_dropped: Counter
    log_lines_dropped: Counter
    process: ProcessCollector = field(repr=False)
    platform: PlatformCollector = field(repr=False)

    @classmethod
    def create(cls) -> Telemetry:
        """A fresh registry with every metric in it."""
        registry = CollectorRegistry()
        return cls(
            registry,
            rpc_seconds=_Histogram(
                "recsys_rpc_seconds",
                "Time to answer a call, failures and timeouts included, by method (Service/Method) and gRPC code.",
                ("method", "code"),
                buckets=SECONDS,
                registry=registry,
            ),
            rpc_in_flight=Gauge(
                "recsys_rpc_in_flight", "Calls that are admitted and not answered yet.", registry=registry
            ),
            stage_seconds=_Histogram(
                "recsys_stage_seconds",
                "Time of a stage, split into queue, compute and network, by status (ok, timeout, failed, skipped).",
                ("stage", "part", "status"),
                buckets=SECONDS,
                registry=registry,
            ),
            stage_candidates=_Histogram(
                "recsys_stage_candidates",
                "Candidates per request that went into or came out of a stage.",
                ("stage", "direction"),
                buckets=CANDIDATES,
                registry=registry,
            ),
            batch_size=_Histogram(
                "recsys_batch_size",
                "Requests that the gateway sent on in one batch.",
                buckets=BATCH_SIZES,
                registry=registry,
            ),
            bundle_info=Gauge(
                "recsys_bundle_info",
                "1 for each bundle version that the process knows, by state (active, ready, refused).",
                ("role", "version", "state"),
                registry=registry,
            ),
            bundle_loads=_Counter(
                "recsys_bundle_loads",
                "Attempts to load a bundle version, by result (loaded, refused).",
                ("role", "result"),
                registry=registry,
            ),
            degraded=_Counter(
                "recsys_degraded",
                "Stages that did not do all of their work, by stage and cause (timeout, failed, skipped, refused, "
                "reduced).",
                ("stage", "cause"),
                registry=registry,
            ),
            requests=_Counter(
                "recsys_requests",
                "Requests of the public API, by outcome (ok, degraded, refused, invalid, failed).",
                ("outcome",),
                registry=registry,
            ),
            answers_dropped=_Counter(
                "recsys_answers_dropped",
                "Answers that were not logged because the log could not keep up.",
                registry=registry,
            ),
            log_lines_dropped=_LogLinesDropped(
                "recsys_log_lines_dropped",
                "Lines of log that were not written: what reads or stores them was too slow, full or gone.",
                registry=registry,
            ),
            process=ProcessCollector(registry=registry),
            platform=PlatformCollector(registry=registry),
        )

    def serve(self, host: str, port: int) -> WSGIServer:
        """Serves `/metrics` from a daemon thread; port 0 picks a free one, see `server_port` of the result.

        Raises:
            CannotStart: the port is in use, or the host is not an address of this machine.
        """
        try:
            server, _ = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise CannotStart(
                f"metrics port {host}:{port}: {error.strerror}; stop the process that uses it, or set --metrics-port"
            ) from None
        server.set_app(_tolerant(cast("WSGIApplication", server.get_app())))
        return server


def _tolerant(app: WSGIApplication) -> WSGIApplication:
    """The same page; prometheus_client fails on some malformed `Accept` headers, which then do not count."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except Exception:  # noqa: BLE001 - whatever a header makes it raise, before it has answered anything
            environ.pop("HTTP_ACCEPT", None)
            return app(environ, start_response)

    return answer


def observe_each(histogram: Histogram, values: Iterable[float]) -> None:
    """Observes every value."""
    for value in values:
        histogram.observe(value)
