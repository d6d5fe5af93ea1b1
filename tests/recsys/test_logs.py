from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

import pytest

from recsys import logs
from recsys.log_writer import LogWriter
from recsys.logs import flush_logs, request_id_of_call, write_logs

logger = logging.getLogger("recsys.somewhere")


def shown(capfd: pytest.CaptureFixture[str]) -> str:
    flush_logs()
    return capfd.readouterr().err


def test_json_is_one_object_a_line_with_facts_and_request_id(capfd: pytest.CaptureFixture[str]) -> None:
    write_logs("INFO", "json")
    token = request_id_of_call.set("r-1")
    try:
        logger.info("answered %d\nqueries", 3, extra={"facts": {"code": "OK"}})
    finally:
        request_id_of_call.reset(token)
    line = json.loads(shown(capfd))
    time = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", time)
    assert line == {
        "level": "INFO",
        "logger": "recsys.somewhere",
        "message": "answered 3\nqueries",
        "request_id": "r-1",
        "code": "OK",
    }


def test_text_is_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    write_logs("INFO", "text")
    logger.warning("slow", extra={"facts": {"code": "OK", "milliseconds": 12.5}})
    assert shown(capfd).split(" ", 1)[1] == "WARNING recsys.somewhere: slow code=OK milliseconds=12.5\n"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_tracebacks_are_part_of_the_record(capfd: pytest.CaptureFixture[str], log_format: str) -> None:
    write_logs("INFO", log_format)  # type: ignore[arg-type]
    try:
        {}["what"]
    except KeyError:
        logger.exception("failed")
    text = shown(capfd)
    assert "KeyError: 'what'" in text
    assert "Traceback" in text
    assert (text.count("\n") == 1) == (log_format == "json")


def test_records_below_the_level_are_not_written(capfd: pytest.CaptureFixture[str]) -> None:
    write_logs("WARNING", "json")
    logger.info("quiet")
    assert shown(capfd) == ""


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_a_caller_that_has_gone_is_no_error(capfd: pytest.CaptureFixture[str], level: str) -> None:
    write_logs(level, "text")
    of_grpc = logging.getLogger("grpc._cython.cygrpc")
    for message in ("ExecuteBatchError raised in core by servicer method [%s]", "Unexpected [%s]"):
        try:
            {}["what"]
        except KeyError:
            of_grpc.exception(message, "/recsys.v1.RankService/Rank")
    text = shown(capfd)
    line = "the caller had gone when the response of /recsys.v1.RankService/Rank was sent"
    assert (f"INFO    grpc._cython.cygrpc: {line}\n" in text) == (level == "INFO")
    assert text.count("Traceback") == 1
    assert "ERROR   grpc._cython.cygrpc: Unexpected [/recsys.v1.RankService/Rank]\n  Traceback" in text


def test_a_line_cannot_be_forged_in_text(capfd: pytest.CaptureFixture[str]) -> None:
    write_logs("INFO", "text")
    forged = "x\n2026-01-01T00:00:00.000+00:00 ERROR root: forged\u2028\x1b[31m"
    logger.info("%s", forged, extra={"facts": {"who": forged}})
    try:
        raise ValueError(forged)  # noqa: TRY301
    except ValueError:
        logger.exception("failed")
    lines = shown(capfd).splitlines()
    assert not [line for line in lines if line.startswith("2026-01-01T00:00:00")]
    assert not [line for line in lines if "\x1b" in line]
    assert len([line for line in lines if not line.startswith("  ")]) == 2


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_text_from_outside_is_cut_by_its_bytes(capfd: pytest.CaptureFixture[str], log_format: str) -> None:
    write_logs("INFO", log_format)  # type: ignore[arg-type]
    logger.info("é" * logs.FIELD_BYTES, extra={"facts": {"many": ["x" * 100] * 1_000, "code": "OK"}})
    line = shown(capfd)
    assert f"({logs.FIELD_BYTES} bytes cut)" in line
    assert len(line.encode()) < logs.LINE_BYTES + 100
    assert line.count("\n") == 1


def test_a_value_that_has_no_text_costs_its_line_alone(capfd: pytest.CaptureFixture[str]) -> None:
    write_logs("INFO", "json")
    logger.info("%d", "no number")
    logger.info("next")
    first, second = map(json.loads, shown(capfd).splitlines())
    assert first["message"] == "a line of recsys.somewhere could not be formatted: TypeError"
    assert second["message"] == "next"


def report(n: int, why: str) -> bytes:
    return f"{n} lost: {why}\n".encode()


def test_a_reader_that_stops_delays_nobody_and_is_told_what_it_missed() -> None:
    reading, writing = os.pipe()
    writer = LogWriter(report, writing, queue_bytes=200_000)
    for n in range(10_000):
        writer.put(b"%099d\n" % n)
    assert not writer.flush(0.1), "the pipe is full"
    assert writer.dropped >= 10_000 - 2_000
    read = b""
    while not writer.flush(0.05):
        read += os.read(reading, 1 << 16)
    writer.put(b"after\n")
    assert writer.flush(1.0)
    read += os.read(reading, 1 << 20)
    lines = read.splitlines()
    reported = [line for line in lines if b" lost: whatever reads them is too slow" in line]
    assert sum(int(line.split()[0]) for line in reported) == writer.dropped
    assert (len(lines) - len(reported), lines[-1]) == (10_000 - writer.dropped + 1, b"after")
    os.close(reading)


def test_a_full_disk_costs_the_lines_and_the_next_ones_say_so(tmp_path: Path) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = LogWriter(report, descriptor)
    for _ in range(3):
        writer.put(b"lost\n")
    assert writer.flush(1.0)
    assert writer.dropped == 3
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, descriptor)
    writer.put(b"written\n")
    assert writer.flush(1.0)
    assert (tmp_path / "log").read_bytes() == b"3 lost: No space left on device\nwritten\n"


def test_a_reader_that_is_gone_costs_the_lines() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LogWriter(report, writing)
    writer.put(b"lost\n")
    assert writer.flush(1.0)
    assert writer.dropped == 1
