"""The harness of every serving process: one asyncio gRPC server with health, reflection and graceful shutdown.

`run` is the whole life of a process: parse, log, build, serve, drain. A process provides its configuration class and a
function that builds its services.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc
import uvloop
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from recsys import __version__, kernels
from recsys.config import ServerConfig
from recsys.errors import CannotStart, RecsysError
from recsys.logs import flush_logs, write_logs
from recsys.server import collector
from recsys.server.calls import CallLimits, Calls, Refusal, admit_all
from recsys.server.reflection import reflect
from recsys.server.standard_services import Guard
from recsys.server.telemetry import Telemetry

logger = logging.getLogger(__name__)

Config = TypeVar("Config", bound=ServerConfig)

EXIT_CANNOT_START = 2
"""Exit code of a process that cannot start as configured."""

_OPTIONS = (
    ("grpc.so_reuseport", 1),
    # Gateways detect a stopped peer by keepalive pings; a server must not take those for an attack.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ("grpc.http2.max_ping_strikes", 0),
)

_BEAT_SECONDS = 1.0

_LISTENERS = 8
"""Of each port. grpc.aio takes up the calls of a listener one after another, each by way of another thread: 3,000 a
second at most, even while there is time for more and all that is to be done is to refuse them.
"""


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service of a process."""

    name: str
    """Full name, e.g. `recsys.v1.RecallService`."""
    register: Callable[[aio.Server], None]
    """Adds the servicer to a server."""
    refusal: Refusal = admit_all
    """Is asked before the message of a call is read."""


class _Surrounding:
    """Stands for a server while our services are added to it: their handlers pass through `Calls` on the way."""

    def __init__(self, server: aio.Server, calls: Calls, refusal: Refusal) -> None:
        self._server, self._calls, self._refusal = server, calls, refusal

    def add_generic_rpc_handlers(self, services: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> None:
        self._server.add_generic_rpc_handlers([self._calls.surround(service, self._refusal) for service in services])

    def add_registered_method_handlers(self, name: str, handlers: Mapping[str, object]) -> None:
        """Nothing: these would be a second way to the same methods. grpc.aio has none either."""


class Server:
    """A gRPC server that reports NOT_SERVING until `set_serving(True)`."""

    def __init__(self, config: ServerConfig, telemetry: Telemetry, services: Sequence[Service]) -> None:
        self._config = config
        self._services = services
        limits = CallLimits(config.in_flight_limit, config.slow_call_seconds, config.log_sample)
        self._calls = Calls(telemetry, limits)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # set under a version check
        self._names = ("", *(service.name for service in services))
        self._own = [self._listener() for _ in range(_LISTENERS)]
        self._shared: list[aio.Server] = []
        """Of the shared port; none until the process can serve."""

    def _listener(self) -> aio.Server:
        options = (
            *_OPTIONS,
            # gRPC answers a larger one with RESOURCE_EXHAUSTED and both sizes
            ("grpc.max_receive_message_length", self._config.max_message_mib << 20),
        )
        server = aio.server(options=options)
        for service in self._services:  # before the others: gRPC asks each service for a method in this order
            service.register(cast("aio.Server", _Surrounding(server, self._calls, service.refusal)))
        guard = cast("aio.Server", Guard(server))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, guard)
        reflect(guard, (*self._names[1:], health.SERVICE_NAME))
        return server

    def bind(self) -> int:
        """Binds the port and returns it.

        Raises:
            CannotStart: a port is in use, or the host is not an address of this machine.
        """
        if self._config.shared_port is not None:
            self._check(self._config.shared_port, "--shared-port", socket.SO_REUSEPORT)
        if self._config.port:
            self._check(self._config.port, "--port", socket.SO_REUSEADDR)
        return self._bind(self._own, self._config.port, "--port")

    def _check(self, port: int, flag: str, allowed: int) -> None:
        """Raises CannotStart if another process has the port: SO_REUSEPORT would share it without an error.

        `allowed`: SO_REUSEPORT for a port that processes share, otherwise SO_REUSEADDR.
        """
        try:
            family, *_, address = socket.getaddrinfo(self._config.host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, allowed, 1)
                probe.bind(address)
        except OSError:
            raise self._taken(port, flag) from None

    def _bind(self, listeners: Sequence[aio.Server], port: int, flag: str) -> int:
        """Binds all to one port and returns it; 0 picks a free one."""
        try:
            for listener in listeners:
                port = listener.add_insecure_port(f"{self._config.host}:{port}")
        except RuntimeError:
            raise self._taken(port, flag) from None
        return port

    def _taken(self, port: int, flag: str) -> CannotStart:
        return CannotStart(
            f"port {self._config.host}:{port}: in use, or no address of this machine; stop the process that uses it, "
            f"or set {flag}"
        )

    async def start(self) -> None:
        """Accepts calls on the port that `bind` returned, NOT_SERVING at first."""
        await self.set_serving(serving=False)
        await _started(self._own)

    async def set_serving(self, *, serving: bool) -> None:
        """Sets what health reports, for the process and for each of its services. The first True joins a shared port.

        Raises:
            CannotStart: another process has taken the shared port for itself.
        """
        kind = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._health.set(name, kind.SERVING if serving else kind.NOT_SERVING)
        if serving and not self._shared and self._config.shared_port is not None:
            self._shared = [self._listener() for _ in range(_LISTENERS)]
            self._bind(self._shared, self._config.shared_port, "--shared-port")
            await _started(self._shared)

    async def drain(self, grace_seconds: float) -> None:
        """Reports NOT_SERVING from now on, refuses new calls, and gives those in flight `grace_seconds` to finish."""
        await self._health.enter_graceful_shutdown()
        await asyncio.gather(*(listener.stop(grace_seconds) for listener in (*self._own, *self._shared)))


async def _started(listeners: Sequence[aio.Server]) -> None:
    for listener in listeners:
        await listener.start()


@dataclass(frozen=True, slots=True)
class Process:
    """What `build` gets: the metrics, the stack of what to close at the end, and the way to report readiness."""

    telemetry: Telemetry
    closing: AsyncExitStack
    """Closed after the drain, last entry first."""
    set_ready: Callable[[bool], None]
    """Reports whether the process can serve; may be called from any thread, before and after the server started."""
    loaded: Callable[[], None] = lambda: None
    """Is called when versions of the bundle were loaded or dropped, from any thread."""


Build = Callable[[Config, Process], Awaitable[Sequence[Service]]]


class _Readiness:
    """Passes readiness, which any thread may report, on to the health service on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = False
        self._changed = asyncio.Event()

    def set(self, ready: bool) -> None:  # noqa: FBT001 - passed as a callable with one argument
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, ready)

    def _set(self, ready: bool) -> None:  # noqa: FBT001 - see above
        self._ready = ready
        self._changed.set()

    async def report_to(self, server: Server) -> None:
        reported = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._ready != reported:
                reported = self._ready
                await server.set_serving(serving=reported)
                logger.info("health is %s", "SERVING" if reported else "NOT_SERVING")


async def serve(
    config: Config,
    build: Build[Config],
    *,
    stop: asyncio.Event | None = None,
    loaded: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGTERM, SIGINT or `stop`, then drains and closes everything. `loaded`: see `Process`.

    Raises:
        CannotStart: a port is in use.
        RecsysError: `build` fails with this configuration.
    """
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as closing:
        if config.exit_with_parent:
            loop.add_reader(sys.stdin.fileno(), _stop_at_end_of_input, loop, stop)
            closing.callback(asyncio.create_task(_beat(sys.stdin.fileno())).cancel)
        telemetry, readiness = Telemetry.create(), _Readiness()
        server = Server(config, telemetry, await build(config, Process(telemetry, closing, readiness.set, loaded)))
        port = server.bind()
        metrics = telemetry.serve(config.host, config.metrics_port)
        closing.callback(metrics.server_close)
        closing.callback(metrics.shutdown)
        await server.start()
        closing.push_async_callback(server.drain, config.drain_seconds)
        logger.info("listening on %s:%d, metrics on port %d", config.host, port, metrics.server_port)
        reporting = asyncio.create_task(readiness.report_to(server))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((stopping, reporting), return_when=asyncio.FIRST_COMPLETED)
        if reporting.done():
            reporting.result()  # it ends only with an error
        reporting.cancel()
        logger.info("draining: up to %g s for the calls in flight", config.drain_seconds)
    logger.info("stopped")


def _stop_at_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    try:
        received = os.read(sys.stdin.fileno(), 1 << 10)
    except ConnectionResetError:  # a parent that ends with beats unread
        received = b""
    if not received:
        loop.remove_reader(sys.stdin.fileno())
        stop.set()


async def _beat(descriptor: int) -> None:
    """Tells a parent at the other end of a pair of sockets that the event loop runs; never waits for it."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return
    with socket.socket(fileno=os.dup(descriptor)) as parent:
        while True:
            with suppress(OSError):  # full while the parent is stopped, closed when it is gone
                parent.send(b".", socket.MSG_DONTWAIT)
            await asyncio.sleep(_BEAT_SECONDS)


def run(program: str, config_class: type[Config], build: Build[Config], arguments: Sequence[str] | None = None) -> int:
    """The life of a process; returns its exit code: 0 after a drain, 2 if it cannot start as configured."""
    try:
        config = config_class.from_arguments(sys.argv[1:] if arguments is None else arguments, f"python -m {program}")
        write_logs(config.log_level, config.log_format)
        facts = {"kernels": kernels.form(), "config": config.model_dump(mode="json")}
        logger.info("%s %s starts", program, __version__, extra={"facts": facts})
        collector.collect_rarely()
        uvloop.run(serve(config, build, loaded=collector.exempt_what_is_loaded))
    except RecsysError as error:
        if flush_logs():  # otherwise stderr takes nothing, and might block for ever
            with suppress(OSError):
                print(f"{program}: {error}", file=sys.stderr)
        return EXIT_CANNOT_START
    return 0
