"""An events file is one gateway's at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.events.claim import Claim
from recsys.errors import CannotStart

HOLD = """
import sys, time
from pathlib import Path
from gateway.events.claim import Claim
claim = Claim(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "events.sqlite"
    file.touch()
    return file


def test_workers_of_one_gateway_share_it_and_another_gateway_waits_for_the_last(path: Path) -> None:
    workers = [Claim(path, "port 1"), Claim(path, "port 1")]
    for worker in workers:
        with pytest.raises(CannotStart, match=r"events\.sqlite: gateway port 1 records there; .*--shared-port"):
            Claim(path, "port 2")
        worker.release()
    other = Claim(path, "port 2")
    with pytest.raises(CannotStart, match="gateway port 2 records there"):
        Claim(path, "port 1")
    other.release()


def test_it_ends_with_the_process_however_that_ends(path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(path), "port 1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(CannotStart, match="gateway port 1 records there"):
            Claim(path, "port 2")
        process.kill()
        process.wait()
        Claim(path, "port 2").release()
