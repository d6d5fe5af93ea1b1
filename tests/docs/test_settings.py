"""Every setting is documented with the flag and the variable that really set it."""

from __future__ import annotations

import io
import re
import tomllib
from contextlib import redirect_stdout

import pytest

from gateway.config import GatewayConfig
from offline.commands.cli import VERBS
from rank_server.main import RankServerConfig
from recall_server.main import RecallServerConfig
from recsys.config import TypedConfig
from tests.docs.pages import ROOT, blocks

PAGE = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
CONFIGS: dict[str, type[TypedConfig]] = {
    "gateway": GatewayConfig,
    "recall_server": RecallServerConfig,
    "rank_server": RankServerConfig,
    **{f"offline {name}": verb.config for name, verb in VERBS.items()},
}


def help_of(program: str) -> str:
    """What `--help` prints."""
    output = io.StringIO()
    with redirect_stdout(output), pytest.raises(SystemExit):
        CONFIGS[program].from_arguments(["--help"], program)
    return output.getvalue()


@pytest.mark.parametrize("program", CONFIGS)
def test_every_setting_has_its_row(program: str) -> None:
    config = CONFIGS[program]
    prefix = config.model_config["env_prefix"]
    sections = set(re.findall(r"^#### \[([\w.]+)\]$", PAGE, re.MULTILINE))
    missing = [
        name
        for name in config.model_fields
        if name not in sections and not re.search(rf"^\| `{name}` \|.*`{prefix}{name.upper()}`", PAGE, re.MULTILINE)
    ]
    assert missing == []


def test_every_flag_that_is_documented_is_one() -> None:
    documented = set(re.findall(r"`(--[a-z][a-z0-9.-]*)`", PAGE)) - {"--help"}
    known = {flag for program in CONFIGS for flag in re.findall(r"--[a-z][a-z0-9.-]*", help_of(program))}
    assert documented - known == set()


def test_the_example_file_is_one() -> None:
    (example,) = [block for block in blocks("toml") if block.page.name == "configuration.md"]
    config = GatewayConfig(**tomllib.loads(example.text))
    assert config.budget_seconds == 0.1
    assert set(config.recall) == {"popularity", "itemcf"}
