"""What `offline serve` becomes after training: one small process that owns the servers, and ends as it always did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.integration

TRAINING = "import sys; from pathlib import Path; from offline.commands.serve_only import Scale, become; "
TRAINING += "print('trained', flush=False); ballast = bytearray(300 << 20); "
TRAINING += "become(*map(Path, sys.argv[1:4]), port_offset=int(sys.argv[4]), scale=Scale({'rank': 1}, {'vector': 2}))"
MIB = 1 << 20
MOST_MIB = 120
"""Of the owner: Python with gRPC and numpy is half of it, what training loads would be several times as much."""


def trained(store: Path, folder: Path, offset: int) -> subprocess.Popen[str]:
    """A program that has trained and becomes the owner of the servers."""
    words = (str(store), str(folder / "events"), str(folder / "logs"), str(offset))
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def offset_of_this_process() -> int:
    """Ports above those of clients, which no other test has."""
    return 11_000 + os.getpid() % 200 * 20


def test_memory_of_training_is_gone_and_ctrl_c_ends_all_with_0(checkerboard_store: Path, tmp_path: Path) -> None:
    with trained(checkerboard_store, tmp_path, offset_of_this_process()) as owner:
        assert owner.stdout is not None
        shown = []
        for line in owner.stdout:
            shown.append(line.rstrip("\n"))
            if line == "serving; Ctrl-C stops\n":
                break
        assert shown[0] == "trained"
        assert shown[-1] == "serving; Ctrl-C stops"
        assert psutil.Process(owner.pid).memory_info().rss < MOST_MIB * MIB
        children = psutil.Process(owner.pid).children(recursive=True)
        assert len(children) == 5  # the servers
        vector = [child.cmdline()[-2:] for child in children if "vector" in child.cmdline()]
        assert vector == [["--compute-threads", "2"]]
        owner.send_signal(signal.SIGINT)
        rest, errors = owner.communicate(timeout=PATIENCE_SECONDS)
    assert owner.returncode == 0, errors
    assert rest.splitlines() == ["stopping: no new calls, calls in flight finish", "all servers exited 0"]
    assert not [child for child in children if child.is_running()]


def test_a_signal_before_the_owner_can_handle_it_ends_it_too(tmp_path: Path) -> None:
    """It is sent while Python starts: nothing is published, and the first thing that is handled is the signal's."""
    name = b"\0-m\0offline.commands.serve_only\0"
    with trained(tmp_path / "absent", tmp_path, 0) as owner:
        eventually(lambda: name in Path(f"/proc/{owner.pid}/cmdline").read_bytes(), "it has become the owner")
        os.kill(owner.pid, signal.SIGINT)
        _, errors = owner.communicate(timeout=PATIENCE_SECONDS)
    assert "Traceback" not in errors
    assert owner.returncode == 2
    assert "error: " in errors.splitlines()[-1]
