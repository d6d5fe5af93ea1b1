from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from rank_server.main import RankServerConfig, build, main
from recsys.server import healthcheck
from recsys.server.server import serve
from tests.waiting import PATIENCE_SECONDS, eventually


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_the_rank_server_waits_for_its_first_bundle_and_drains(tmp_path: Path) -> None:
    stop, config = asyncio.Event(), RankServerConfig(port=free_port(), metrics_port=0, bundle_root=tmp_path)
    life = asyncio.create_task(serve(config, build, stop=stop))
    target = f"127.0.0.1:{config.port}"

    def is_up() -> bool:
        return healthcheck.state(target, service="recsys.v1.RankService") == "NOT_SERVING"

    await asyncio.to_thread(eventually, is_up, "it is up")
    stop.set()
    await asyncio.wait_for(life, PATIENCE_SECONDS)


def test_a_wrong_setting_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--channel", "rank"]) == 2
    assert capsys.readouterr().err == "rank_server: unrecognized arguments: --channel rank; see --help\n"


def test_the_ports_are_those_of_the_documentation() -> None:
    config = RankServerConfig.from_arguments([], "rank_server")
    assert (config.port, config.metrics_port) == (50054, 9154)
