"""`offline serve`: everything of `run`, then servers on this machine."""

from __future__ import annotations

from pydantic import Field

from offline.commands.run import RunConfig, run
from offline.commands.verb import Verb
from offline.local.serve import serve_until_interrupted


class ServeConfig(RunConfig):
    """Run, then serve all processes until Ctrl-C."""

    main_settings = (
        "dataset",
        "data_dir",
        "port_offset",
        "metadata_file",
        "root",
        "config",
        "serving.channels",
        "serving.clock",
        "split.protocol",
        "ranker.kind",
    )

    port_offset: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="number added to every port, gRPC and metrics, to run next to another system or where a port is "
        "taken",
    )


def serve(config: ServeConfig) -> None:
    """`run`, then a server for each recall channel, the ranker and the gateway until Ctrl-C."""
    run(config)
    serve_until_interrupted(
        config.store("production"),
        events_folder=config.events_file.parent,
        logs=config.home / "logs",
        port_offset=config.port_offset,
    )


VERB = Verb(ServeConfig, serve)
