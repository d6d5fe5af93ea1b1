"""What a stranger looks for in the root folder is there, and says the same as the project."""

from __future__ import annotations

import re
import tomllib

import yaml

from tests.docs.pages import ROOT


def test_the_license_is_the_one_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [file] = project["license-files"]
    text = " ".join((ROOT / file).read_text(encoding="utf-8").split())
    assert project["license"] == "Apache-2.0"
    assert text.startswith("Apache License Version 2.0, January 2004")
    assert "END OF TERMS AND CONDITIONS" in text


def test_hosted_ci_runs_what_must_hold() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    [job] = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert workflow["permissions"] == {"contents": "read"}


def test_hooks_before_a_commit_run_tools_of_the_environment() -> None:
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"][
        "dev"
    ]
    installed = {re.split("[=<>]", name)[0] for name in dev} | {"lint-imports", "buf"}
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    assert tools == {"ruff", "mypy", "lint-imports", "buf"}
    assert tools <= installed


def test_the_glossary_has_every_word_once_in_order() -> None:
    lines = (ROOT / "docs/glossary.md").read_text(encoding="utf-8").splitlines()
    rows = [re.split(r" \| ", line.strip("| ")) for line in lines if line.startswith("| ") and "---" not in line][1:]
    words = [word for word, _ in rows]
    assert words == sorted(set(words), key=str.casefold)
    assert all(meaning for _, meaning in rows)
