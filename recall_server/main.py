"""`python -m recall_server --channel NAME`: wiring only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import Field, model_validator

from recall_server.channels.base import Channel
from recall_server.channels.registry import channel_class
from recall_server.servicer import SERVICE_NAME, RecallServicer, stage_name
from recsys.bundle import Bundle, BundleStore, golden
from recsys.channels import CHANNELS, FALLBACK_CHANNEL
from recsys.config import METRICS_PORTS, PORTS, ServerConfig
from recsys.errors import CannotStart
from recsys.server.compute import Compute
from recsys.server.server import Process, Service, run
from recsys.server.versions import Versions
from recsys.v1 import recall_pb2_grpc


def _by_channel(ports: Mapping[str, int]) -> str:
    """The defaults of all channels, for the help text."""
    return ", ".join(f"{ports[name]} for {name}" for name in CHANNELS)


class RecallServerConfig(ServerConfig):
    """A recall server: answers with candidates of one channel."""

    main_settings = (
        "channel",
        "config",
        "host",
        "port",
        "metrics_port",
        "bundle_root",
        "in_flight_limit",
        "compute_threads",
        "log_level",
        "log_format",
    )

    channel: str = Field(description=f"which channel to serve: {', '.join(CHANNELS)}")
    port: int = Field(
        default=PORTS[FALLBACK_CHANNEL],
        ge=0,
        le=65_535,
        description=f"gRPC port; {_by_channel(PORTS)}; 0 picks a free one",
    )
    metrics_port: int = Field(
        default=METRICS_PORTS[FALLBACK_CHANNEL],
        ge=0,
        le=65_535,
        description=f"port of /metrics, on the same host; {_by_channel(METRICS_PORTS)}; 0 picks a free one",
    )

    @model_validator(mode="before")
    @classmethod
    def _ports_of_the_channel(cls, values: dict[str, Any]) -> dict[str, Any]:
        channel = values.get("channel")
        if channel in PORTS:
            values = {"port": PORTS[channel], "metrics_port": METRICS_PORTS[channel]} | values
        return values


async def build(config: RecallServerConfig, process: Process) -> list[Service]:
    """The channel's service, following the released bundle."""
    channel_type = _channel_type(config.channel)

    def check(channel: Channel, bundle: Bundle) -> None:
        golden.check_recall(bundle.folder, config.channel, channel.recall)

    versions: Versions[Channel] = Versions(
        BundleStore(config.bundle_root), config.channel, channel_type.load, check=check, telemetry=process.telemetry
    )
    compute = Compute(config.compute_threads, stage_name(config.channel), process.telemetry)
    process.closing.callback(compute.close)
    process.closing.callback(versions.close)
    servicer = RecallServicer(versions, compute, process.telemetry)
    versions.follow(config.poll_seconds, process.set_ready, process.loaded)
    return [Service(SERVICE_NAME, partial(recall_pb2_grpc.add_RecallServiceServicer_to_server, servicer))]


def _channel_type(name: str) -> type[Channel]:
    try:
        return channel_class(name)
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"channel {name} needs {error.name}, which is not installed; run: pip install 'recsys-serving[{name}]'"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    return run("recall_server", RecallServerConfig, build, arguments)
