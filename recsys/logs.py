"""Logs of a process on stderr: one JSON object per line, or plain text.

What comes from outside may be in any field, so every line is bounded and escaped here, and nowhere else.
"""

from __future__ import annotations

import json
import logging
import re
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from recsys.log_writer import LogWriter

LogFormat = Literal["json", "text"]

FIELD_BYTES = 4 << 10
"""Of the message and of each fact that is text, encoded as UTF-8."""

TRACEBACK_BYTES = 8 << 10
"""Of a traceback, whose end is kept: it names the error."""

LINE_BYTES = 32 << 10
"""Of a whole line; one that is longer loses its facts and its traceback."""

_REQUEST_ID_BYTES = 256
_EXIT_SECONDS = 1.0
"""How long the end of a process waits for its last lines to be written."""

request_id_of_call: ContextVar[str] = ContextVar("request_id_of_call", default="")
"""The current request; every log line contains it."""


_encode = json.JSONEncoder(default=str).encode
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What ends a line, or moves the cursor of a terminal."""


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": cut(record.getMessage()),
        }
        if request_id := request_id_of_call.get():
            line["request_id"] = cut(request_id, _REQUEST_ID_BYTES)
        head = dict(line)
        for name, value in getattr(record, "facts", {}).items():
            line[name] = cut(value) if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = _cut_start(self.formatException(record.exc_info))
        text = _encode(line)
        if len(text) <= LINE_BYTES:  # it is ASCII
            return text
        return _encode({**head, "cut": f"{len(text) - len(_encode(head))} bytes of facts and traceback"})


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = dict(getattr(record, "facts", {}))
        if request_id := request_id_of_call.get():
            facts["request_id"] = cut(request_id, _REQUEST_ID_BYTES)
        extra = "".join(f" {name}={cut(escape(str(value)))}" for name, value in facts.items())
        message = cut(escape(record.getMessage()))
        text = cut(f"{_time(record)} {record.levelname:<7} {record.name}: {message}{extra}", LINE_BYTES)
        return text + _indented(self.formatException(record.exc_info)) if record.exc_info else text


def cut(text: str, limit: int = FIELD_BYTES) -> str:
    """The start of the text, of at most `limit` bytes as UTF-8, and how many are missing."""
    if 4 * len(text) <= limit:
        return text
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= limit:
        return text
    return f"{encoded[:limit].decode('utf-8', 'ignore')}… ({len(encoded) - limit} bytes cut)"


def _cut_start(text: str) -> str:
    """The end of a traceback, and how many bytes are missing before it."""
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= TRACEBACK_BYTES:
        return text
    cut = len(encoded) - TRACEBACK_BYTES
    return f"({cut} bytes cut) …{encoded[cut:].decode('utf-8', 'ignore')}"


def escape(text: str) -> str:
    """The text with its control characters and ends of lines as Python writes them."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _indented(traceback: str) -> str:
    """Lines of a traceback, none of which can be taken for a line of the log, whatever the error says."""
    return "".join(f"\n  {escape(line)}" for line in _cut_start(traceback).split("\n"))


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


class _QueueingHandler(logging.Handler):
    """Formats a record where it is logged, and leaves the writing to the writer."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._writer = _writer()
        self._writer.describe = self._describe

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - whatever a value's text raises: a line must not fail a call
            line = self.format(_warning(f"a line of {record.name} could not be formatted: {type(error).__name__}"))
        self._writer.put(_line(line))

    def flush(self) -> None:
        """Waits for the writer, not for ever; `logging` calls it at the end of the process."""
        flush_logs()

    def _describe(self, n: int, why: str) -> bytes:
        return _line(self.format(_warning(f"{n} lines of log were not written: {why}")))


def _warning(text: str) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None)


def _line(text: str) -> bytes:
    return f"{text}\n".encode("utf-8", "backslashreplace")


@lru_cache(maxsize=1)
def _writer() -> LogWriter:
    """The only one of the process."""
    return LogWriter(lambda n, why: _line(f"{n} lines of log were not written: {why}"))


def write_logs(level: str, log_format: LogFormat) -> None:
    """Sends all logs of the process to stderr, at `level` and above, replacing any earlier setup.

    A record's `extra={"facts": {...}}` becomes fields of its line. Logging never waits: a line that the queue has no
    room for, or that cannot be written, is dropped and counted, and a later line says how many were.
    """
    handler = _QueueingHandler(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # What no line contains need not be found out for each: it is a fifth of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - as the documentation of `logging` advises under "Optimization"


def flush_logs() -> bool:
    """Waits up to a second until what was logged is written; False if it is not: stderr takes nothing."""
    return _writer().flush(_EXIT_SECONDS)


def lines_dropped() -> int:
    """Lines of log that this process could not write."""
    return _writer().dropped
