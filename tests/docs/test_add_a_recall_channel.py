"""The worked example of docs/how-to/add-a-recall-channel.md, in a copy of the project: added and run as printed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import indent

import grpc
import pytest
import yaml

from recsys.channels import CHANNELS
from recsys.config import METRICS_PORTS, PORTS
from recsys.v1 import recommend_pb2, recommend_pb2_grpc
from tests.docs.pages import ROOT, blocks, commands
from tests.waiting import eventually

PAGE = "docs/how-to/add-a-recall-channel.md"
REGISTRY = "recsys/channels.py"
COPIED = ("recsys", "recall_server", "rank_server", "gateway", "offline", "docs", "docker", "benchmarks", "tests")
NEWEST = 50057
OFFSET = 300
"""Added to the ports of the page, where another system may listen."""
READY = "serving; Ctrl-C stops"


def files_of_the_page() -> dict[str, str]:
    """The blocks of the page that are files, and the line of the registry."""
    return {block.title: block.text for block in blocks("python") if block.page.stem == "add-a-recall-channel"}


def command(beginning: str) -> list[str]:
    """The words of the command of the page that begins so, with this interpreter for `python`."""
    [found] = [text for place, text in commands() if text.startswith(beginning) and PAGE in place]
    return [sys.executable, *shlex.split(found)[1:]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the three files and the line of the page."""
    root = tmp_path_factory.mktemp("project")
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "protos", root / "protos")
    files = files_of_the_page()
    line = files.pop(REGISTRY)
    assert len(files) == 3
    for name, text in files.items():
        assert not (root / name).exists()
        (root / name).write_text(text, encoding="utf-8")
    registry = (root / REGISTRY).read_text("utf-8")
    end = registry.index("\n)\n", registry.index("_SPECS = ("))
    (root / REGISTRY).write_text(
        f"{registry[:end]}\n{indent(line.rstrip(), '    ')},{registry[end:]}", encoding="utf-8"
    )
    return root


def run(project: Path, words: list[str]) -> str:
    """Runs a command in the copy, which must succeed; returns what it printed."""
    done = subprocess.run(words, cwd=project, env=environment(project), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(project: Path) -> Mapping[str, str]:
    """That of this process, but our packages are those of the copy."""
    return {**os.environ, "PYTHONPATH": str(project)}


def test_the_page_takes_the_next_ports() -> None:
    port = int(re.findall(r"^ +(\d+),$", files_of_the_page()[REGISTRY], re.MULTILINE)[0])
    assert port == max(PORTS.values()) + 1
    page = (ROOT / PAGE).read_text("utf-8")
    assert f"the metrics port ({max(METRICS_PORTS.values()) + 1})" in page
    assert f"newest=127.0.0.1:{port}" in page


@pytest.mark.integration
def test_docker_and_docs_follow_from_the_line(project: Path) -> None:
    written = run(project, command("python docs/generate.py"))
    assert "docker/Dockerfile: written" in written
    services = yaml.safe_load((project / "docker/compose.yaml").read_text("utf-8"))["services"]
    assert services["newest"]["profiles"] == ["newest"]
    assert '"newest": "newest:50057"' in services["gateway"]["environment"]["RECSYS_RECALL"]
    assert "FROM serving AS recall-newest\n" in (project / "docker/Dockerfile").read_text("utf-8")
    jobs = yaml.safe_load((project / "docker/prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert {"job_name": "newest", "static_configs": [{"targets": ["newest:9157"]}]} in jobs
    assert 'up{job=~"als|content|newest"}' in (project / "docker/prometheus/alerts.yml").read_text("utf-8")
    assert "| `newest` | `RecallService` | 50057 | 9157 |" in (project / "docs/reference/operations.md").read_text(
        "utf-8"
    )
    assert "`--newest.period-days`" in (project / "docs/reference/configuration.md").read_text("utf-8")
    assert "written" not in run(project, command("python docs/generate.py"))


@pytest.mark.integration
def test_the_channel_conforms(project: Path) -> None:
    printed = run(project, [*command("python -m pytest"), "-q", "-p", "no:cacheprovider"])
    summary = re.search(r"(\d+) passed", printed)
    assert summary is not None
    assert int(summary[1]) >= 20
    assert "skipped" not in printed


@pytest.mark.integration
@pytest.mark.slow
def test_it_is_trained_published_and_answers_through_the_gateway(project: Path, tmp_path: Path) -> None:
    words = [*command("python -m offline serve"), "--root", str(tmp_path), f"--port-offset={OFFSET}"]
    with serving(project, words, tmp_path / "log"):
        target = f"127.0.0.1:{PORTS['gateway'] + OFFSET}"
        with grpc.insecure_channel(target) as channel:
            stub = recommend_pb2_grpc.RecommendationServiceStub(channel)
            asked = recommend_pb2.RecommendRequest(user_id=1, count=500, debug=True)
            answer = stub.Recommend(asked, timeout=30, wait_for_ready=True)
    stages = {stage.name: stage.status for stage in answer.stages}
    assert not answer.degraded
    assert set(stages) & {f"recall:{name}" for name in (*CHANNELS, "newest")} == {"recall:popularity", "recall:newest"}
    of_newest = [item for item in answer.items if any(reason.channel == "newest" for reason in item.reasons)]
    assert of_newest
    assert "all servers exited 0" in (tmp_path / "log").read_text("utf-8")
    backend = status_of_the_channel_alone(project, tmp_path)
    assert (backend.name, backend.reachable, backend.cause) == ("newest", True, "")


def status_of_the_channel_alone(project: Path, root: Path) -> recommend_pb2.BackendStatus:
    """What a gateway says of a server of the channel alone, both started with the last commands of the page."""
    bundles = ["--bundle-root", str(root / "demo/bundles/production"), "--metrics-port", "0"]
    files = ["--events-file", str(root / "alone.sqlite"), "--answers-file", str(root / "answers.sqlite")]
    port = PORTS["gateway"] + OFFSET
    moved = [
        re.sub(r":(\d{5})", lambda found: f":{int(found[1]) + OFFSET}", word) for word in command("python -m gateway")
    ]
    server = [*command("python -m recall_server"), *bundles, "--port", str(NEWEST + OFFSET)]
    gateway = [*moved, *bundles, *files, "--port", str(port)]
    with ExitStack() as running, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for words in (server, gateway):
            process = subprocess.Popen(words, cwd=project, env=environment(project), stderr=subprocess.DEVNULL)
            running.callback(process.wait, 60)
            running.callback(process.terminate)
        stub = recommend_pb2_grpc.RecommendationServiceStub(channel)

        def status() -> recommend_pb2.BackendStatus:
            answer = stub.Status(recommend_pb2.StatusRequest(), timeout=30, wait_for_ready=True)
            return next(backend for backend in answer.backends if backend.name == "newest")

        eventually(lambda: status().reachable and not status().cause, "the gateway uses the channel")
        return status()


@contextmanager
def serving(project: Path, words: list[str], log: Path) -> Iterator[None]:
    """Runs the command until it serves; ends it with SIGINT, after which it must exit with 0."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            words, cwd=project, env=environment(project), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while READY not in log.read_text("utf-8"):
                assert process.poll() is None, log.read_text("utf-8")
                try:
                    process.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
            yield
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
    assert code == 0, log.read_text("utf-8")
