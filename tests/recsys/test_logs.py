from __future__ import annotations

import json
import logging
import re

import pytest

from recsys.logs import request_id_of_call, write_logs

logger = logging.getLogger("recsys.somewhere")


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_json_is_one_object_a_line_with_facts_and_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    write_logs("INFO", "json")
    token = request_id_of_call.set("r-1")
    try:
        logger.info("answered %d\nqueries", 3, extra={"facts": {"code": "OK"}})
    finally:
        request_id_of_call.reset(token)
    line = json.loads(shown(capsys))
    time = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", time)
    assert line == {
        "level": "INFO",
        "logger": "recsys.somewhere",
        "message": "answered 3\nqueries",
        "request_id": "r-1",
        "code": "OK",
    }


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    write_logs("INFO", "text")
    logger.warning("slow", extra={"facts": {"code": "OK", "milliseconds": 12.5}})
    assert shown(capsys).split(" ", 1)[1] == "WARNING recsys.somewhere: slow code=OK milliseconds=12.5\n"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_tracebacks_are_part_of_the_record(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    write_logs("INFO", log_format)  # type: ignore[arg-type]
    try:
        {}["what"]
    except KeyError:
        logger.exception("failed")
    text = shown(capsys)
    assert "KeyError: 'what'" in text
    assert "Traceback" in text
    assert (text.count("\n") == 1) == (log_format == "json")


def test_records_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    write_logs("WARNING", "json")
    logger.info("quiet")
    assert shown(capsys) == ""


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_a_caller_that_has_gone_is_no_error(capsys: pytest.CaptureFixture[str], level: str) -> None:
    write_logs(level, "text")
    of_grpc = logging.getLogger("grpc._cython.cygrpc")
    for message in ("ExecuteBatchError raised in core by servicer method [%s]", "Unexpected [%s]"):
        try:
            {}["what"]
        except KeyError:
            of_grpc.exception(message, "/recsys.v1.RankService/Rank")
    text = shown(capsys)
    line = "the caller had gone when the response of /recsys.v1.RankService/Rank was sent"
    assert (f"INFO    grpc._cython.cygrpc: {line}\n" in text) == (level == "INFO")
    assert text.count("Traceback") == 1
    assert "ERROR   grpc._cython.cygrpc: Unexpected [/recsys.v1.RankService/Rank]\nTraceback" in text
