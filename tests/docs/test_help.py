"""`--help` of every program: what matters most first, every flag once, and no line wider than the terminal."""

from __future__ import annotations

import argparse
import re

import pytest
from pydantic_settings import CliSettingsSource

from offline.commands.cli import VERBS
from offline.workflow.config import OfflineConfig
from recsys.config import TypedConfig
from tests.docs.test_settings import CONFIGS, help_of

FLAG = re.compile(r"^  (?:--[a-z0-9.-]+, )?--(?:no-)?([a-z0-9.-]+)", re.MULTILINE)
"""The flag that begins a line, without `--` and `--no-`."""


def flags_of(config: type[TypedConfig]) -> set[str]:
    """What the parser takes, less the flags of whole sections, which it hides."""
    parser = CliSettingsSource[object](config, cli_parse_args=None).root_parser
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    return {action.option_strings[0].removeprefix("--") for action in actions}


def flags_shown(page: str) -> list[str]:
    """Those that the page describes, in order."""
    return FLAG.findall(page.partition("Where settings come from:")[0])


@pytest.mark.parametrize("program", CONFIGS)
def test_every_flag_is_there_once(program: str) -> None:
    shown = flags_shown(help_of(program))
    assert sorted(shown) == sorted(flags_of(CONFIGS[program]))


@pytest.mark.parametrize("program", CONFIGS)
def test_what_matters_most_comes_first(program: str) -> None:
    main = CONFIGS[program].main_settings
    assert 3 <= len(main) <= 10
    shown = help_of(program)
    assert "\n\nMain settings:\n  --" in shown
    assert flags_shown(shown)[: len(main)] == [name.replace("_", "-") for name in main]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "serve"])
def test_settings_of_a_verb_itself_come_before_those_of_all(verb: str) -> None:
    """Not of `serve`: what its one own setting moves, the ports, is chosen more seldom than the data set."""
    config = VERBS[verb].config
    own = [name in config.model_fields and name not in OfflineConfig.model_fields for name in config.main_settings]
    assert own == sorted(own, reverse=True)
    assert any(own) or config.model_fields.keys() == OfflineConfig.model_fields.keys()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("program", CONFIGS)
def test_no_line_is_wider_than_the_terminal(program: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = help_of(program).splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0] == f"usage: {program} [--setting VALUE …]"


@pytest.mark.parametrize("program", CONFIGS)
def test_the_environment_and_the_file_are_mentioned(program: str) -> None:
    shown = " ".join(help_of(program).split())
    assert "else from an environment variable, else from the TOML file named by --config" in shown
    assert str(CONFIGS[program].model_config["env_prefix"]) in shown
