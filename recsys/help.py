"""The page that `--help` prints: the settings that matter most, then all others under their sections."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

MAX_WIDTH = 120
"""Columns. Longer lines are hard to read, however wide the terminal is."""
MIN_WIDTH = 60
INDENT = "  "
GLUE = "\N{NO-BREAK SPACE}"
"""Between words that stay in one line; written as a space."""
BREAK = " \N{ZERO WIDTH SPACE}"
"""Where a line may end within a value; written as nothing."""

METAVARS: dict[Any, str] = {bool: "", int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One flag."""

    name: str
    """As the file has it, with its sections: `two_tower.epochs`."""
    metavar: str
    """What the flag takes; empty for a switch."""
    description: str
    default: str
    """As it would be typed; empty where there is none."""
    choices: tuple[str, ...] = ()
    required: bool = False

    @property
    def flag(self) -> str:
        """As it is typed, with what it takes."""
        dashed = self.name.replace("_", "-")
        return f"--{dashed} {self.metavar}" if self.metavar else f"--{dashed}, --no-{dashed}"

    @property
    def text(self) -> str:
        """What it means, what may be chosen, and what holds where it is not given."""
        notes = [" | ".join(self.choices)] if self.choices else []
        notes += [f"default:{GLUE}{self.default}"] if self.default else []
        notes += ["required"] if self.required else []
        return f"{self.description} ({'; '.join(notes)})" if notes else self.description


@dataclass(frozen=True, slots=True)
class Section:
    """The settings of one table of the file; those above all tables have no name."""

    name: str
    about: str
    settings: list[Setting] = field(default_factory=list)


def help_page(config: type[BaseModel], program: str, *, first: Sequence[str], prefix: str, width: int) -> str:
    """The whole page, in lines of at most `width` columns; `MIN_WIDTH` where that is less.

    `first`: settings that come first, as dotted names, in this order. `prefix`: of environment variables. Raises
    KeyError for a name in `first` that is no setting.
    """
    width = min(max(width, MIN_WIDTH), MAX_WIDTH)
    sections = sections_of(config)
    known = {setting.name: setting for section in sections for setting in section.settings}
    parts = [f"usage: {program} [--setting VALUE …]", "\n".join(_wrapped(summary_of(config), width))]
    parts += [_block("Main settings:", [known[name] for name in first], width)] if first else []
    for section in sections:
        rest = [setting for setting in section.settings if setting.name not in first]
        title = f"[{section.name}] {section.about}".rstrip() if section.name else "Other settings:"
        parts += [_block(title, rest, width)] if rest else []
    parts.append(_sources(prefix, sections, width))
    return "\n\n".join(parts) + "\n"


def terminal_width() -> int:
    """Columns of the terminal, or what COLUMNS says; 80 where neither is known."""
    return shutil.get_terminal_size().columns


def sections_of(config: type[BaseModel]) -> list[Section]:
    """All settings, section by section, outer ones before those inside them."""
    return list(_sections(config, None, name="", about=""))


def _sections(config: type[BaseModel], values: BaseModel | None, *, name: str, about: str) -> Iterator[Section]:
    """The section of `config` and those below it; `values` has its defaults where they are not those of the class."""
    section = Section(name, about)
    inner: list[tuple[str, type[BaseModel], BaseModel | None, str]] = []
    for key, info in config.model_fields.items():
        full = f"{name}.{key}" if name else key
        default = info.get_default(call_default_factory=True) if values is None else getattr(values, key)
        below = _section_class(info)
        if below is None:
            section.settings.append(_setting(full, info, default))
        else:
            defaults = default if isinstance(default, below) else None
            inner.append((full, below, defaults, _sentence(info.description) or summary_of(below)))
    yield section
    for full, below, defaults, text in inner:
        yield from _sections(below, defaults, name=full, about=text)


def _section_class(info: FieldInfo) -> type[BaseModel] | None:
    """The class of a section's fields, also of a section that may be absent; None for a plain setting."""
    kinds = [kind for kind in (get_args(info.annotation) or (info.annotation,)) if kind is not NoneType]
    if get_origin(info.annotation) in (tuple, list, dict) or len(kinds) != 1:
        return None
    return kinds[0] if isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel) else None


def _setting(name: str, info: FieldInfo, default: Any) -> Setting:
    annotation = _without_none(info.annotation)
    many = get_origin(annotation) in (tuple, list)
    kind = _without_none(get_args(annotation)[0]) if many else annotation
    choices = _choices(kind)
    metavar = info.title or METAVARS.get(kind, "CHOICE" if choices else "JSON")
    if get_origin(annotation) is dict:
        metavar = f"NAME={_title(get_args(annotation)[1])},…"
    elif many and metavar != "JSON":
        metavar = f"{metavar},…"
    required = info.is_required()
    return Setting(name, metavar, info.description or "", "" if required else _typed(default), choices, required)


def _title(annotation: Any) -> str:
    """What an entry of a map is, as the title of its type says; VALUE where it has none."""
    checks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((check.title for check in checks if isinstance(check, FieldInfo) and check.title), "VALUE")


def _without_none(annotation: Any) -> Any:
    """The type that is meant: without its checks, and without None where it may be absent."""
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return _without_none(kinds[0]) if NoneType in get_args(annotation) and len(kinds) == 1 else annotation


def _choices(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return tuple(str(entry.value) for entry in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ()


def _typed(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return f",{BREAK}".join(f"{key}={_typed(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        if any(isinstance(entry, BaseModel) for entry in value):
            return json.dumps([entry.model_dump(mode="json", exclude_defaults=True) for entry in value])
        return ",".join(map(_typed, value))
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:].removesuffix('.')}." if text else ""


def summary_of(config: type[BaseModel]) -> str:
    """The first paragraph of the docstring."""
    return " ".join((config.__doc__ or "").split("\n\n")[0].split())


def _block(title: str, settings: Sequence[Setting], width: int) -> str:
    """A title, and below it flags with what they mean; a flag that fills its column has a line of its own."""
    column = width // 3 + len(INDENT)
    lines = _wrapped(title, width, hanging=INDENT)
    for setting in settings:
        flags = _wrapped(f"{INDENT}{setting.flag}", width, hanging=INDENT)
        text = _wrapped(f"{' ' * column}{setting.text}", width, hanging=" " * column)
        if len(flags[-1]) + len(INDENT) <= column:
            text[0] = flags.pop().ljust(column) + text[0][column:]
        lines += [*flags, *text]
    return "\n".join(lines)


def _wrapped(text: str, width: int, *, hanging: str = "") -> list[str]:
    lines = textwrap.wrap(text, width, subsequent_indent=hanging, break_on_hyphens=False)
    return [line.replace(GLUE, " ").replace(f",{BREAK}", ",").replace(BREAK[-1], "") for line in lines]


def _sources(prefix: str, sections: Sequence[Section], width: int) -> str:
    """Where settings come from, with an example of this program's own."""
    example = sections[0].settings[-1].name
    tables = [section.name for section in sections if section.name]
    text = (
        "A setting comes from its flag, else from an environment variable, else from the TOML file named by --config, "
        f"else from the default shown here. --{example.replace('_', '-')} is {prefix}{example.upper()} in the "
        f"environment and {example} in the file."
    )
    if tables:
        text += (
            f" A section is a table in the file, such as [{tables[0]}], and a JSON object in the environment, such as "
            f"{prefix}{tables[0].upper()}."
        )
    return "\n".join(["Where settings come from:", *_wrapped(f"{INDENT}{text}", width, hanging=INDENT)])
