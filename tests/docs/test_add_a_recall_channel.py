"""The worked example of docs/how-to/add-a-recall-channel.md: extracted, registered as the page says, and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

CONFTEST = '''
"""Makes the files of the page part of the packages that they belong to, and registers the channel as it says."""

from pathlib import Path
from types import MappingProxyType

import offline.publish
import recall_server.channels

HERE = Path(__file__).parent
offline.__path__.append(str(HERE / "offline"))
recall_server.channels.__path__.append(str(HERE / "recall_server/channels"))
recall_server.channels.CHANNELS = MappingProxyType({**recall_server.channels.CHANNELS, **CHANNEL_LINE})
offline.publish.ROLE_FOLDERS.update(FOLDERS_LINE)
'''

SERVED = '''
"""The new channel as a process serves it: published, verified, asked over gRPC."""

from contextlib import AsyncExitStack

import grpc
import numpy as np

from offline import newest
from offline.publish import ROLE_FOLDERS
from recall_server.channels import channel_class
from recall_server.main import RecallConfig, build
from recsys import convert
from recsys.bundle import golden
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
        config = RecallConfig(channel="newest", port=0, metrics_port=0, bundle_root=tmp_path)
        services = await build(config, process)
        async with serving(services) as target, grpc.aio.insecure_channel(target) as connection:
            stub = recall_pb2_grpc.RecallServiceStub(connection)
            query = convert.recall_query_to_proto(toy_recall_query(count=3))
            request = recall_pb2.RecallRequest(bundle_version="v1", queries=[query])
            response = await stub.Recall(request, timeout=10)
    assert response.channel == "newest"
    assert list(response.results[0].item_ids) == [12, 11, 10]
    assert np.all(np.diff(response.results[0].scores) < 0)
'''


@pytest.mark.integration
def test_the_worked_example_works(tmp_path: Path) -> None:
    files = {block.title: block.text for block in blocks("python") if block.page.stem == "add-a-recall-channel"}
    channel_line = files.pop("recall_server/channels/__init__.py")
    folders_line = files.pop("offline/publish.py")
    assert set(files) == {
        "recall_server/channels/newest.py",
        "offline/newest.py",
        "tests/recall_server/test_newest.py",
    }
    conftest = CONFTEST.replace("CHANNEL_LINE", channel_line.strip()).replace("FOLDERS_LINE", folders_line.strip())
    test = files.pop("tests/recall_server/test_newest.py")
    for name, text in {**files, "conftest.py": conftest, "test_newest.py": test, "test_served.py": SERVED}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
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
