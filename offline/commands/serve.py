"""`offline serve`: everything of `run`, then servers on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, field_validator

from offline.commands.run import RunConfig, run
from offline.commands.serve_only import become
from offline.commands.verb import Verb
from offline.local.ports import Scale
from recsys.config import PORTS

_Number = Annotated[int, Field(ge=1, le=64)]


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
    workers: dict[str, _Number] = Field(
        default_factory=dict,
        description="processes per role: NAME=NUMBER, separated by commas, for example gateway=2,itemcf=2,rank=2; a "
        "role that is not named has one",
    )
    threads: dict[str, _Number] = Field(
        default_factory=dict,
        description="the same for compute threads of each process, for example vector=2: threads share an index of "
        "vectors, which processes cannot",
    )

    @field_validator("workers")
    @classmethod
    def _roles(cls, numbers: dict[str, int]) -> dict[str, int]:
        return _known(numbers, tuple(PORTS))

    @field_validator("threads")
    @classmethod
    def _computing_roles(cls, numbers: dict[str, int]) -> dict[str, int]:
        return _known(numbers, tuple(role for role in PORTS if role != "gateway"))


def _known(numbers: dict[str, int], roles: Sequence[str]) -> dict[str, int]:
    unknown = sorted(set(numbers) - set(roles))
    if unknown:
        raise ValueError(f"there is no such role as {unknown[0]!r}; choose of {', '.join(roles)}")
    return numbers


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
        scale=Scale(config.workers, config.threads),
    )


VERB = Verb(ServeConfig, serve)
