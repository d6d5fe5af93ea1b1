"""Configuration of every program: flags, then environment, then file, then defaults.

One typed class per program; unknown keys are refused; nothing is read at import.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from recsys.channels import CHANNELS
from recsys.errors import CannotStart
from recsys.help import help_page, terminal_width
from recsys.logs import LogFormat

ENVIRONMENT_PREFIX = "RECSYS_"

PORTS = dict(
    sorted(
        {"gateway": 50050, "rank": 50054, **{name: spec.port for name, spec in CHANNELS.items()}}.items(),
        key=lambda entry: entry[1],
    )
)
"""Default gRPC port by role."""

METRICS_PORTS = {role: port - 40_900 for role, port in PORTS.items()}
"""Default metrics port by role."""

WORKER_STEP = 20
"""Of several processes of a role on one machine, the k-th, counted from 1, has ports that are k times this higher."""

EVENTS_FILE, ANSWERS_FILE = "events.sqlite", "answers.sqlite"
"""What a gateway's files are called in their folder."""


def port_field(default: int) -> Any:
    """The field `port` of a process whose default port is `default`."""
    return Field(default=default, ge=0, le=65_535, description="gRPC port; 0 picks a free one")


def metrics_port_field(default: int) -> Any:
    """The field `metrics_port` of a process whose default metrics port is `default`."""
    return Field(default=default, ge=0, le=65_535, description="port of /metrics, on the same host; 0 picks a free one")


class TypedConfig(BaseSettings):
    """How every program is configured: a subclass names fields, and this class reads them.

    The docstring of a subclass begins the page that `--help` prints.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_exit_on_error=False,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
    )

    renamed: ClassVar[Mapping[str, str]] = {}
    """Old dotted key: new one. An old key is refused with an error that names the new one."""

    main_settings: ClassVar[tuple[str, ...]] = ()
    """Names of those that `--help` shows first, at most ten; sections and settings are joined by dots."""

    config: Path | None = Field(default=None, description="TOML file with any of these settings")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments of the constructor are the file's values: environment and flags go before them."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @classmethod
    def from_arguments(cls, arguments: Sequence[str], program: str) -> Self:
        """Reads flags, environment and the file that `--config` or RECSYS_CONFIG names.

        Raises:
            CannotStart: an unknown or renamed key, or a wrong value; one line that says where it stands.
            SystemExit: after `--help`.
        """
        if not {"-h", "--help"}.isdisjoint(arguments):
            sys.stdout.write(
                help_page(cls, program, first=cls.main_settings, prefix=cls._prefix(), width=terminal_width())
            )
            raise SystemExit(0)
        cls._refuse_unknown_variables()
        cls._refuse_renamed_flags(arguments)
        file, values = cls._read_file(arguments)
        values = merged(cls._preset(arguments, values), values)
        flags: CliSettingsSource[Any] = CliSettingsSource(
            cls, cli_prog_name=program, cli_parse_args=None, cli_exit_on_error=False
        )
        try:
            flags = flags(args=list(arguments))
            return cls(_cli_settings_source=flags, **values)  # type: ignore[call-arg]
        except SettingsError as error:
            raise CannotStart(f"{str(error).removeprefix('error parsing CLI: ')}; see --help") from None
        except ValidationError as error:
            raise CannotStart(_first(error, file, cls.renamed)) from None

    @classmethod
    def _preset(cls, arguments: Sequence[str], file: dict[str, Any]) -> dict[str, Any]:
        """Values that go before the defaults and behind everything else; a subclass may derive them from the rest."""
        del arguments, file
        return {}

    @classmethod
    def _early(cls, name: str, arguments: Sequence[str], otherwise: Any) -> Any:
        """A setting that decides how the others are read: its flag, its variable, or `otherwise`."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        parser.add_argument(f"--{name}", default=os.environ.get(f"{cls._prefix()}{name.upper()}", otherwise))
        try:
            return getattr(parser.parse_known_args(arguments)[0], name)
        except argparse.ArgumentError as error:
            raise CannotStart(f"{error}; see --help") from None

    @classmethod
    def _read_file(cls, arguments: Sequence[str]) -> tuple[Path | None, dict[str, Any]]:
        name = cls._early("config", arguments, None)
        if name is None:
            return None, {}
        path = Path(name)
        try:
            return path, tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise CannotStart(f"--config {path}: cannot be read as TOML ({error})") from None

    @classmethod
    def _refuse_unknown_variables(cls) -> None:
        known = {f"{cls._prefix()}{name.upper()}" for name in cls.model_fields}
        for name in sorted(os.environ):
            if name.upper().startswith(cls._prefix()) and name.upper() not in known:
                raise CannotStart(f"environment variable {name}: no such setting; known are {', '.join(sorted(known))}")

    @classmethod
    def _refuse_renamed_flags(cls, arguments: Sequence[str]) -> None:
        for word in arguments:
            key = word.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
            if word.startswith("--") and key in cls.renamed:
                raise CannotStart(_renamed(key, cls.renamed[key]))

    @classmethod
    def _prefix(cls) -> str:
        return cls.model_config.get("env_prefix") or ENVIRONMENT_PREFIX


class ServerConfig(TypedConfig):
    """Settings of every serving process. A process adds its own fields in a subclass."""

    main_settings = (
        "config",
        "host",
        "port",
        "metrics_port",
        "bundle_root",
        "in_flight_limit",
        "compute_threads",
        "shared_port",
        "log_level",
        "log_format",
    )

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = port_field(0)
    metrics_port: int = metrics_port_field(0)
    bundle_root: Path = Field(
        default=Path("data/demo/bundles/production"),
        description="folder of published bundles, the one that holds CURRENT",
    )
    poll_seconds: float = Field(default=1.0, gt=0, description="seconds between checks for a newly published bundle")
    in_flight_limit: int = Field(
        default=256,
        ge=1,
        description="calls of one method that are in flight at a time; more are refused with RESOURCE_EXHAUSTED",
    )
    max_message_mib: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="largest message to accept, in MiB; the gateway sends stored histories of any length",
    )
    compute_threads: int = Field(
        default=1,
        ge=1,
        description="threads for batches that take too long for the event loop; further ones wait in a queue. Two or "
        "more also take short batches, and so use more cores",
    )
    shared_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="a further gRPC port, for several processes of this role on one machine: each joins it when it "
        "can serve (SO_REUSEPORT), and the kernel gives every connection to one of them",
    )
    drain_seconds: float = Field(
        default=10.0, ge=0, description="seconds that calls in flight get to finish after SIGTERM"
    )
    exit_with_parent: bool = Field(
        default=False, description="shut down when standard input closes, which means that the parent process is gone"
    )
    slow_call_seconds: float = Field(
        default=0.25, gt=0, description="calls that take longer than this are logged as warnings"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="INFO logs ordinary calls, too (see log_sample), WARNING only slow and failed ones"
    )
    log_sample: int = Field(
        default=100,
        ge=1,
        description="of ordinary calls, the first 10 in a second are logged, and 1 in this many of the others, chosen "
        "by request id: the same requests in all processes; refused, late and cancelled calls count as ordinary; slow, "
        "failed and degraded ones always are; 1 logs all",
    )
    log_format: LogFormat = Field(default="json", description="json: one object per line; text: for people")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table at any depth."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _renamed(old: str, new: str) -> str:
    return f"{old} was renamed to {new}; change the flag, the variable or the file that sets it"


def _first(error: ValidationError, file: Path | None, renamed: Mapping[str, str]) -> str:
    """The first complaint, in one line."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "configuration"
    if first["type"] == "extra_forbidden":
        if name in renamed:
            return _renamed(name, renamed[name])
        return f"{file or 'configuration'}: unknown key {name!r}; see --help for the known ones"
    found = "" if first["type"] in ("missing", "value_error") else f", found {first['input']!r}"
    return f"{name}: {first['msg']}{found}; set it with --{name.replace('_', '-')}, in the environment or in the file"
