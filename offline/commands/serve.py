"""`offline serve`: everything of `run`, then servers on this machine."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from offline.commands.run import RunConfig, run
from offline.commands.serve_only import become
from offline.commands.verb import Verb
from recsys.config import PORTS


class ServeConfig(RunConfig):
    """Run, then serve all processes until Ctrl-C."""

    main_settings = (
        "dataset",
        "data_dir",
        "port_offset",
        "workers",
        "metadata_file",
        "root",
        "config",
        "serving.channels",
        "serving.clock",
        "ranker.kind",
    )

    port_offset: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="number added to every port, gRPC and metrics, to run next to another system or where a port is "
        "taken",
    )
    workers: dict[str, Annotated[int, Field(ge=1, le=64)]] = Field(
        default_factory=dict,
        description="processes per role: NAME=NUMBER, separated by commas, for example gateway=2,itemcf=2,rank=2; a "
        "role that is not named has one; vector has as many threads instead, because its index cannot be shared",
    )

    @field_validator("workers")
    @classmethod
    def _known_roles(cls, workers: dict[str, int]) -> dict[str, int]:
        unknown = sorted(set(workers) - set(PORTS))
        if unknown:
            raise ValueError(f"there is no role {unknown[0]!r}; choose of {', '.join(PORTS)}")
        return workers


def serve(config: ServeConfig) -> None:
    """`run`, then a server for each recall channel, the ranker and the gateway until Ctrl-C.

    What training has loaded is gone by then.
    """
    run(config)
    become(
        config.store("production").root,
        config.events_file.parent,
        config.home / "logs",
        port_offset=config.port_offset,
        workers=config.workers,
    )


VERB = Verb(ServeConfig, serve)
