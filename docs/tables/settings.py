"""Every setting of every program: key, type, default, meaning, flag and environment variable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config import GatewayConfig
from offline.commands.cli import VERBS
from offline.workflow.config import OfflineConfig
from rank_server.main import RankServerConfig
from recall_server.main import RecallServerConfig
from recsys.config import ServerConfig, TypedConfig
from tables.annotations import kind_of
from tables.markdown import quoted, table

HEADER = ["key", "type", "default", "flag", "environment", ""]
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def server() -> str:
    """The settings of every serving process."""
    return _fields(ServerConfig, [name for name in ServerConfig.model_fields if name not in ("port", "metrics_port")])


def recall() -> str:
    """Further settings of a recall server."""
    return _fields(RecallServerConfig, _own(RecallServerConfig, ServerConfig))


def rank() -> str:
    """Further settings of the rank server."""
    return _fields(RankServerConfig, _own(RankServerConfig, ServerConfig))


def gateway() -> str:
    """Further settings of the gateway."""
    return _fields(GatewayConfig, _own(GatewayConfig, ServerConfig))


def offline() -> str:
    """The settings of every offline verb, without the sections."""
    return _fields(
        OfflineConfig, [name for name in OfflineConfig.model_fields if _section(OfflineConfig, name) is None]
    )


def offline_sections() -> str:
    """The sections of the offline configuration, one table each; a section within another follows it."""
    return "\n".join(_sections(OfflineConfig))


def verbs() -> str:
    """The verbs, and what each takes beyond what all take."""
    rows = [[quoted(name), verb.summary] for name, verb in VERBS.items()]
    parts = [table(["verb", "what it does"], rows)]
    for name, verb in VERBS.items():
        own = _own(verb.config, OfflineConfig)
        if own:
            parts += [f"#### {name}\n", _fields(verb.config, own)]
    return "\n".join(parts)


def _own(config: type[BaseModel], base: type[BaseModel]) -> list[str]:
    """Fields that `config` adds to `base` or gives another default."""
    return [
        name
        for name, field in config.model_fields.items()
        if name not in base.model_fields or _default(field) != _default(base.model_fields[name])
    ]


def _section(config: type[BaseModel], name: str) -> type[BaseModel] | None:
    kind = config.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _sections(config: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in config.model_fields:
        section = _section(config, name)
        if section is not None:
            yield f"#### [{prefix}{name}]\n"
            yield f"{(section.__doc__ or '').strip().splitlines()[0]}\n"
            yield _nested(f"{prefix}{name}", section)
            yield from _sections(section, f"{prefix}{name}.")


def _fields(config: type[TypedConfig], names: Iterable[str]) -> str:
    prefix = config.model_config["env_prefix"]
    rows = [
        [*_facts(name, config.model_fields[name]), _flag(name), quoted(f"{prefix}{name.upper()}"), _text(config, name)]
        for name in names
    ]
    return table(HEADER, rows)


def _nested(section: str, config: type[BaseModel]) -> str:
    rows = [
        [*_facts(name, field), _flags(f"{section}.{name}", field), _text(config, name)]
        for name, field in config.model_fields.items()
        if _section(config, name) is None
    ]
    return table([name for name in HEADER if name != "environment"], rows)


def _facts(name: str, field: FieldInfo) -> list[str]:
    bounds = [
        f"{sign} {getattr(entry, bound):g}"
        for entry in field.metadata
        for bound, sign in BOUNDS.items()
        if getattr(entry, bound, None) is not None
    ]
    default = "required" if field.is_required() else quoted(_default(field))
    return [quoted(name), ", ".join([kind_of(field.annotation), *bounds]), default]


def _text(config: type[BaseModel], name: str) -> str:
    description = config.model_fields[name].description
    if description is None:
        raise SystemExit(f"{config.__name__}.{name}: has no description; every setting is documented")
    return description


def _flag(name: str) -> str:
    return quoted(f"--{name.replace('_', '-')}")


def _flags(name: str, field: FieldInfo) -> str:
    """The flag of a setting; one per part where the setting is an object that may be absent."""
    parts = [kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if not parts or NoneType not in get_args(field.annotation):
        return _flag(name)
    return ", ".join(_flag(f"{name}.{part}") for part in parts[0].model_fields)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    return json.dumps(_plain(value), ensure_ascii=False) if not isinstance(value, Path) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
