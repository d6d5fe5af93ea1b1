from __future__ import annotations

import os
from pathlib import Path

from offline.local.log_file import last_lines, limit_size, open_to_append


def test_a_large_log_is_copied_and_emptied_while_it_is_open(tmp_path: Path) -> None:
    log, complaints = tmp_path / "a.log", list[str]()
    descriptor = open_to_append(log, complaints.append)
    os.write(descriptor, b"x" * 10)
    limit_size(log, complaints.append, 10)
    assert log.stat().st_size == 10
    os.write(descriptor, b"y")
    limit_size(log, complaints.append, 10)
    os.write(descriptor, b"z")
    os.close(descriptor)
    assert log.read_bytes() == b"z"
    assert (tmp_path / "a.log.1").read_bytes() == b"x" * 10 + b"y"
    assert complaints == []


def test_a_log_that_cannot_be_copied_is_emptied_all_the_same(tmp_path: Path) -> None:
    log, complaints = tmp_path / "a.log", list[str]()
    log.write_bytes(b"x" * 11)
    (tmp_path / "a.log.1").symlink_to("/dev/full")
    limit_size(log, complaints.append, 10)
    assert log.read_bytes() == b""
    assert len(complaints) == 1
    assert "No space left on device; the log is emptied without a copy" in complaints[0]


def test_a_log_that_is_not_there_is_small(tmp_path: Path) -> None:
    complaints: list[str] = []
    limit_size(tmp_path / "a.log", complaints.append)
    assert complaints == []


def test_the_end_of_a_log_is_read_and_no_more(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert last_lines(log, 2) == "no log (No such file or directory)"
    log.write_bytes(b"")
    assert last_lines(log, 2) == "no output yet"
    log.write_bytes(b"first\n" * 100_000 + b"\xff before\nlast\n")
    assert last_lines(log, 2) == "\N{REPLACEMENT CHARACTER} before\nlast"
    assert len(last_lines(Path("/dev/full"), 1)) == 64 << 10, "it never ends"
