"""The other processes as the gateway sees them: a connection, a circuit breaker, and the result of the last probe."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio

from gateway.backends.breaker import Breaker
from gateway.config import GatewayConfig
from recsys.errors import BundleMissing, DeadlinePassed, InvalidRequest, Overloaded, RecsysError, Unreachable
from recsys.v1 import rank_pb2, rank_pb2_grpc, recall_pb2, recall_pb2_grpc, types_pb2

logger = logging.getLogger(__name__)
Response = TypeVar("Response")

_CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # otherwise channels to the same target would share a TCP connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also how long one connection attempt may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 10_000),  # a machine that disappears sends no reset
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.enable_retries", 0),  # a late answer is worse than none: the pipeline has a fallback for every source
    ("grpc.max_receive_message_length", 64 << 20),
)


def translate(name: str, error: grpc.aio.AioRpcError) -> RecsysError:
    """The error of this project for a gRPC error of a call to `name`."""
    code, details = error.code(), error.details() or "no details"
    kind = _KINDS.get(code, RecsysError)
    return kind(f"{name}: {code.name}: {details}")


_KINDS: dict[grpc.StatusCode, type[RecsysError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlinePassed,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.CANCELLED: Unreachable,
    grpc.StatusCode.UNIMPLEMENTED: Unreachable,
    grpc.StatusCode.FAILED_PRECONDITION: BundleMissing,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
}


class Backend(ABC):
    """One other process. Create it on the event loop that uses it."""

    def __init__(self, name: str, target: str, config: GatewayConfig) -> None:
        """`name` is the recall channel or "rank", and the role that the process must have; `target` is HOST:PORT."""
        self.name = name
        self.target = target
        self.config = config
        self.breaker = Breaker(name, failures=config.breaker_failures, window_seconds=config.breaker_window_seconds)
        self.channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        self.wanted_version = ""
        """The version that requests are pinned to; the breaker closes when the process has it."""
        self.in_flight = 0
        """Calls that are not answered yet."""
        self.reachable = False
        self.reads_packed = False
        """Whether calls may use packed fields: as the last probe found, until an answer proves it outdated."""
        self.status: types_pb2.ServingStatus | None = None
        self._cause = "not probed yet"

    @abstractmethod
    async def ask_status(self, timeout: float) -> types_pb2.ServingStatus:  # noqa: ASYNC109 - gRPC's own deadline
        """The status that the process reports; raises AioRpcError."""

    @abstractmethod
    async def ask_to_load(self, version: str, timeout: float) -> None:  # noqa: ASYNC109
        """Makes the process load a version that it has not loaded; raises AioRpcError."""

    @property
    def cause(self) -> str:
        """Why the process is not used, or not reachable; empty if all is well."""
        return self.breaker.cause or self._cause

    def is_ready(self, version: str) -> bool:
        """Whether the process reports that it has loaded and checked `version`."""
        return self.reachable and self.status is not None and version in self.status.ready_versions

    def refusal(self, version: str) -> str:
        """Why the process refuses `version`; empty if it does not."""
        refused = self.status.refused_versions if self.status is not None else ()
        return next((entry.reason for entry in refused if entry.bundle_version == version), "")

    async def call(
        self,
        method: Callable[[], Awaitable[Response | None]],
        timeout: float,  # noqa: ASYNC109
    ) -> Response:
        """Makes one call through the breaker.

        A call that timed out after less than `min_counted_timeout_seconds` says nothing about the process, so a client
        with a tiny deadline cannot open the breaker for everybody.

        Raises:
            Skipped: the breaker is open.
            DeadlinePassed, Unreachable, Overloaded, BundleMissing, InvalidRequest, RecsysError: see `translate`.
        """
        self.breaker.check()
        if timeout <= 0:
            raise DeadlinePassed(f"{self.name}: no time was left to call it")
        self.in_flight += 1
        try:
            response = await method()
        except grpc.aio.AioRpcError as error:
            failure = translate(self.name, error)
            late = isinstance(failure, DeadlinePassed)
            if isinstance(failure, Unreachable) or (late and timeout >= self.config.min_counted_timeout_seconds):
                self.breaker.failed(str(failure))
            raise failure from error
        finally:
            self.in_flight -= 1
        if response is None:  # grpc.aio, if the deadline passes while the answer arrives
            raise DeadlinePassed(f"{self.name}: the answer arrived too late to be read")
        self.breaker.succeeded()
        return response

    async def probe(self) -> None:
        """Requests the status once, and opens or closes the breaker accordingly."""
        try:
            status = await self.ask_status(self.config.probe_timeout_seconds)
        except grpc.aio.AioRpcError as error:
            self._update(reachable=False, cause=str(translate(self.name, error)))
            self.breaker.failed(self._cause)
            return
        self.status, self.reads_packed = status, status.reads_packed
        wrong = f"{self.target} serves {status.role!r}, not {self.name!r}: check the ports" * (status.role != self.name)
        self._update(reachable=True, cause=wrong or self.refusal(self.wanted_version))
        if self.breaker.is_open and not wrong:
            await self._recover()

    async def _recover(self) -> None:
        version = self.wanted_version
        if not version or self.is_ready(version):
            logger.info("%s answers again and has loaded %s", self.name, version or "no version yet")
            self.breaker.close()
        elif not self.refusal(version):
            try:
                await self.ask_to_load(version, self.config.load_timeout_seconds)
            except grpc.aio.AioRpcError as error:
                self._cause = str(translate(self.name, error))

    def _update(self, *, reachable: bool, cause: str) -> None:
        if (reachable, cause) != (self.reachable, self._cause):
            logger.log(
                logging.WARNING if cause else logging.INFO, "%s at %s: %s", self.name, self.target, cause or "reachable"
            )
        self.reachable, self._cause = reachable, cause

    def pause_seconds(self) -> float:
        """How long to wait before the next probe; shorter while the breaker is open."""
        return self.config.reprobe_seconds if self.breaker.is_open else self.config.probe_seconds

    async def close(self) -> None:
        """Closes the connection."""
        await self.channel.close(None)


class RecallBackend(Backend):
    """A recall server."""

    def __init__(self, name: str, target: str, config: GatewayConfig) -> None:
        """`name` is the recall channel."""
        super().__init__(name, target, config)
        self.stub = recall_pb2_grpc.RecallServiceStub(self.channel)

    async def ask_status(self, timeout: float) -> types_pb2.ServingStatus:  # noqa: ASYNC109
        """See `Backend`."""
        response = await self.stub.Status(recall_pb2.RecallServiceStatusRequest(), timeout=timeout)
        return response.status

    async def ask_to_load(self, version: str, timeout: float) -> None:  # noqa: ASYNC109
        """Sends an empty batch pinned to the version."""
        await self.stub.Recall(recall_pb2.RecallRequest(bundle_version=version), timeout=timeout)


class RankBackend(Backend):
    """The rank server."""

    def __init__(self, name: str, target: str, config: GatewayConfig) -> None:
        """`name` is "rank"."""
        super().__init__(name, target, config)
        self.stub = rank_pb2_grpc.RankServiceStub(self.channel)

    async def ask_status(self, timeout: float) -> types_pb2.ServingStatus:  # noqa: ASYNC109
        """See `Backend`."""
        response = await self.stub.Status(rank_pb2.RankServiceStatusRequest(), timeout=timeout)
        return response.status

    async def ask_to_load(self, version: str, timeout: float) -> None:  # noqa: ASYNC109
        """Sends an empty batch pinned to the version."""
        await self.stub.Rank(rank_pb2.RankRequest(bundle_version=version), timeout=timeout)
