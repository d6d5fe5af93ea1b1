"""The worked example of docs/how-to/add-a-recall-channel.md: extracted, registered as the page says, and run."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import offline
from offline.dataset.interactions import Snapshot
from offline.recall import training as recall
from offline.steps.workspace import Workspace
from offline.workflow import config
from recall_server import channels
from recsys.config import METRICS_PORTS, PORTS
from recsys.testing import toy_recall_query
from tests.docs.pages import ROOT, blocks, commands
from tests.offline.tastes import DAY, dataset_of_tastes

CONFTEST = '''
"""Makes the files of the page part of the packages that they belong to, and registers the channel as it says."""

from pathlib import Path
from types import MappingProxyType

import offline.publish.publish
import recall_server.channels
import recsys.config

HERE = Path(__file__).parent
offline.__path__.append(str(HERE / "offline"))
recall_server.channels.__path__.append(str(HERE / "recall_server/channels"))
recall_server.channels.CHANNELS = MappingProxyType({**recall_server.channels.CHANNELS, **CHANNEL_LINE})
offline.publish.publish.ROLE_FOLDERS.update(FOLDERS_LINE)
recsys.config.PORTS["newest"], recsys.config.METRICS_PORTS["newest"] = PORTS_LINE
'''

SERVED = '''
"""The new channel as a process serves it: published, verified, asked over gRPC."""

from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import numpy as np

from offline import newest
from offline.publish.publish import ROLE_FOLDERS
from recall_server.channels.registry import channel_class
from recall_server.main import RecallServerConfig, build
from recsys import convert
from recsys.bundle import golden
from offline.local.cluster import Ports, programs
from recsys.server import Process
from recsys.telemetry import Telemetry
from recsys.testing import release, serving, toy_recall_query, write_bundle
from recsys.v1 import recall_pb2, recall_pb2_grpc
from tests.recall_server.toy import snapshot_of

SECONDS_PER_DAY = 86_400


def fill(folder):
    """Item i of the toy world became available on day i."""
    snapshot = snapshot_of([], {item_id: "Drama" for item_id in range(1, 13)})
    snapshot.items.available_from[:] = SECONDS_PER_DAY * snapshot.items.item_ids
    newest.train(snapshot, folder)
    golden.record_recall(folder, "newest", [toy_recall_query()], channel_class("newest").open(folder).recall)


async def test_the_process_serves_it(tmp_path):
    bundle = write_bundle(tmp_path, "v1", roles=("newest",), extra=fill)
    release(tmp_path, "v1")
    wanted = tuple(f"{folder}/" for folder in ROLE_FOLDERS["newest"])
    assert {file for file in bundle.manifest.roles["newest"] if not file.startswith((*wanted, "golden/"))} == set()
    ready = []
    async with AsyncExitStack() as closing:
        process = Process(Telemetry.create(), closing, ready.append)
        config = RecallServerConfig(channel="newest", port=0, metrics_port=0, bundle_root=tmp_path)
        services = await build(config, process)
        async with serving(services) as target, grpc.aio.insecure_channel(target) as connection:
            stub = recall_pb2_grpc.RecallServiceStub(connection)
            query = convert.recall_query_to_proto(toy_recall_query(count=3))
            request = recall_pb2.RecallRequest(bundle_version="v1", queries=[query])
            response = await stub.Recall(request, timeout=10)
    assert response.channel == "newest"
    assert list(response.results[0].item_ids) == [12, 11, 10]
    assert np.all(np.diff(response.results[0].scores) < 0)


def test_a_cluster_starts_it_with_the_command_of_the_page():
    started = programs(Path("data/demo/bundles/production"), Path("events"), Ports.default(), channels=("newest",))
    [arguments] = [program.arguments for program in started if program.name == "newest"]
    assert {*"COMMAND".split()[1:]} <= set(arguments)
'''


def files_of_the_page() -> dict[str, str]:
    """The blocks of the page that are files, or lines to add to one."""
    return {block.title: block.text for block in blocks("python") if block.page.stem == "add-a-recall-channel"}


def command_of_the_page() -> str:
    """How the page starts the channel's process."""
    [found] = [command for _, command in commands() if "recall_server --channel newest" in command]
    return found


def ports_of_the_page() -> tuple[int, int]:
    """The channel's gRPC and metrics port."""
    found = re.search(r"--port (\d+) --metrics-port (\d+)", command_of_the_page())
    assert found is not None
    return int(found[1]), int(found[2])


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Writes files by name below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_the_page_takes_the_next_ports() -> None:
    assert ports_of_the_page() == (max(PORTS.values()) + 1, max(METRICS_PORTS.values()) + 1)


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's training, registered in this process where the page says that training is."""
    files = files_of_the_page()
    write(tmp_path, {name: files[name] for name in ("recall_server/channels/newest.py", "offline/newest.py")})
    for package in (offline, channels):
        folder = tmp_path.joinpath(*package.__name__.split("."))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    line = ast.literal_eval(files["recall_server/channels/__init__.py"].strip())
    monkeypatch.setattr(channels, "CHANNELS", {**channels.CHANNELS, **line})
    newest = importlib.import_module("offline.newest")
    trainers = recall._trainers

    def with_newest(snapshot: Snapshot, config: recall.RecallConfig, **others: Any) -> dict[str, recall._Trainer]:
        train = partial(newest.train, snapshot)
        return {
            **trainers(snapshot, config, **others),
            "newest": recall._Trainer("newest", train, NoSettings(), [newest]),
        }

    monkeypatch.setattr(recall, "_trainers", with_newest)
    names = (*recall.CHANNELS, "newest")
    for module in (recall, config):
        monkeypatch.setattr(module, "CHANNELS", names)
    yield
    for package in (offline, channels):
        sys.modules.pop(f"{package.__name__}.newest", None)
        vars(package).pop("newest", None)


class NoSettings(BaseModel):
    """The configuration of a channel that has none."""


@pytest.mark.usefixtures("registered")
def test_where_serving_names_it_it_is_in_the_policy_and_trained(tmp_path: Path) -> None:
    settings = config.OfflineConfig(root=tmp_path, serving=config.ServingConfig(channels=("newest", "popularity")))
    asked = settings.serving.policy("toy").channels
    assert [(channel.name, channel.history_limit) for channel in asked] == [("popularity", None), ("newest", 0)]
    workspace = Workspace(tmp_path / "work")
    tables = workspace.run("tables", lambda folder: None)
    models = recall.train_recall(workspace, dataset_of_tastes(), 60 * DAY, config=settings.recall, tables=tables)
    workspace.release()
    assert [part.name for part in models.parts] == ["catalogue", "popularity", "newest"]
    [found] = channels.channel_class("newest").open(models.view.folder).recall([toy_recall_query(count=3)])
    assert len(found) == 3


@pytest.mark.integration
def test_the_worked_example_works(tmp_path: Path) -> None:
    files = files_of_the_page()
    channel_line = files.pop("recall_server/channels/__init__.py")
    folders_line = files.pop("offline/publish/publish.py")
    assert set(files) == {
        "recall_server/channels/newest.py",
        "offline/newest.py",
        "tests/recall_server/test_newest.py",
    }
    conftest = CONFTEST.replace("CHANNEL_LINE", channel_line.strip()).replace("FOLDERS_LINE", folders_line.strip())
    conftest = conftest.replace("PORTS_LINE", str(ports_of_the_page()))
    served = SERVED.replace("COMMAND", command_of_the_page())
    test = files.pop("tests/recall_server/test_newest.py")
    write(tmp_path, {**files, "conftest.py": conftest, "test_newest.py": test, "test_served.py": served})
    options = [
        "--import-mode=importlib",
        "-q",
        "-o",
        "asyncio_mode=auto",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
    ]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    summary = re.search(r"(\d+) passed", run.stdout)
    assert summary is not None
    assert int(summary[1]) >= 25
    assert "skipped" not in run.stdout
