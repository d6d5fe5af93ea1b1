"""Logs of a process on stderr: one JSON object per line, or plain text."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

LogFormat = Literal["json", "text"]

request_id_of_call: ContextVar[str] = ContextVar("request_id_of_call", default="")
"""The current request; every log line contains it."""


_encode = json.JSONEncoder(default=str).encode


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := request_id_of_call.get():
            line["request_id"] = request_id
        line.update(getattr(record, "facts", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = dict(getattr(record, "facts", {}))
        if request_id := request_id_of_call.get():
            facts["request_id"] = request_id
        extra = "".join(f" {name}={value}" for name, value in facts.items())
        text = f"{_time(record)} {record.levelname:<7} {record.name}: {record.getMessage()}{extra}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _time(record: logging.LogRecord) -> str:
    second, millisecond = divmod(int(record.created * 1e3), 1_000)
    return f"{_second(second)}.{millisecond:03d}+00:00"


@lru_cache(maxsize=1)
def _second(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class _CallerHasGone(logging.Filter):
    """Shortens to one line what gRPC reports as an error with a traceback: the caller was gone.

    It happens if a caller's deadline passes while its response is being sent (grpc, aio/server.pyx.pxi).
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("ExecuteBatchError raised in core by servicer method"):
            record.msg = "the caller had gone when the response of %s was sent"
            record.levelno, record.levelname, record.exc_info = logging.INFO, "INFO", None
        return logging.getLogger().isEnabledFor(record.levelno)


logging.getLogger("grpc._cython.cygrpc").addFilter(_CallerHasGone())


def write_logs(level: str, log_format: LogFormat) -> None:
    """Sends all logs of the process to stderr, at `level` and above, replacing any earlier setup.

    A record's `extra={"facts": {...}}` becomes fields of its line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # What no line contains need not be found out for each: it is a fifth of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - as the documentation of `logging` advises under "Optimization"
