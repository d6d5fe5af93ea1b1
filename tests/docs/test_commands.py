"""Commands on the pages: targets, verbs, flags, modules, methods and messages exist."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
from google.protobuf import json_format

from offline.commands.cli import VERBS
from recsys.v1 import rank_pb2, recall_pb2, recommend_pb2
from tests.docs.pages import PAGES, ROOT, commands
from tests.docs.test_settings import help_of

COMMANDS = commands()
FILES = {"recommend": recommend_pb2, "recall": recall_pb2, "rank": rank_pb2}
MESSAGES = {
    f"{service.full_name}/{method.name}": method.input_type._concrete_class
    for file in FILES.values()
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
FLAGS = {
    "ghz": {"--insecure", "--call", "--data", "--rps", "--async", "--concurrency", "--connections", "--duration"}
    | {"--duration-stop", "--timeout"},
    "grpcurl": {"-plaintext", "-d"},
    "h2load": {"--clients", "--max-concurrent-streams", "--duration", "--data", "--header"},
}
"""Flags of tools that are not installed with the project, as their manuals have them."""


def everywhere(pattern: str) -> set[str]:
    """What `pattern` captures on all pages, prose and blocks."""
    return {found for page in PAGES for found in re.findall(pattern, page.read_text(encoding="utf-8"))}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = everywhere(r"(?:`|^|\$ )make ([a-z-]+)")
    assert named
    assert named - targets == set()


def test_make_variables_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {
        word.partition("=")[0]
        for _, command in COMMANDS
        if command.startswith("make ")
        for word in shlex.split(command)[2:]
    }
    assert {name for name in named if not re.search(rf"^{name} \?=", makefile, re.MULTILINE)} == set()


def test_verbs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"-m offline ([a-z-]+)", makefile)) - set(VERBS) == set()
    named = everywhere(r"(?:python -m offline|recsys-offline|`offline) ([a-z-]+)")
    assert named
    assert named - set(VERBS) == set()


@pytest.mark.parametrize(("place", "command"), COMMANDS, ids=lambda value: str(value)[:60])
def test_flags_of_our_programs_exist(place: str, command: str) -> None:
    match = re.match(r"(?:python -m |recsys-)(offline [\w-]+|gateway|recall_server|rank_server)\b(.*)", command)
    through_make = re.match(r"make (run|serve|replay)\b.* ARGS=\"(.*)\"", command)
    if match is not None:
        program, arguments = match.groups()
    elif through_make is not None:
        program, arguments = f"offline {through_make[1]}", through_make[2]
    else:
        return
    flags = {word.partition("=")[0] for word in shlex.split(arguments) if word.startswith("--")} - {"--help"}
    known = set(re.findall(r"--[a-z][a-z0-9.-]*", help_of(program)))
    assert flags - known == set(), place


def test_modules_exist() -> None:
    named = everywhere(r"python -m ([a-z_.]+)")
    assert {name for name in named if importlib.util.find_spec(name) is None} == set()


@pytest.mark.parametrize(("place", "command"), COMMANDS, ids=lambda value: str(value)[:60])
def test_calls_name_methods_and_send_messages_that_exist(place: str, command: str) -> None:
    words = shlex.split(command)
    if words[0] not in FLAGS:
        return
    assert {word for word in words if word.startswith("-")} <= FLAGS[words[0]], place
    methods = [name for name in MESSAGES if name in command or name.replace("/", ".") in words]
    assert methods or {"list", "describe"} & set(words), place
    data = next((words[n + 1] for n, word in enumerate(words) if word in ("-d", "--data")), "{}")
    if words[0] != "h2load":
        for method in methods[:1]:
            json_format.Parse(re.sub(r"\{\{.*?\}\}", "1", data), MESSAGES[method]())


def test_data_in_calls_is_json_once_templates_are_filled_in() -> None:
    found = [words[words.index("--data") + 1] for _, c in COMMANDS if (words := shlex.split(c))[0] == "ghz"]
    assert found
    for data in found:
        assert json.loads(re.sub(r"\{\{.*?\}\}", "7", data))["user_id"] == "7"


def test_no_page_names_a_folder_of_one_machine() -> None:
    assert everywhere(r"(/(?:home|root|work|Users)/\S*)") == set()


def test_scripts_that_are_named_exist() -> None:
    named = everywhere(r"(?:^|`|\s)(?:python )?((?:docker|docs|benchmarks|\.ci)/[\w-]+(?:\.(?:sh|py))?)(?=`|\s)")
    assert {name for name in named if not Path(ROOT, name).exists()} == set()
