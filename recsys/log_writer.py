"""A queue of log lines and the thread that writes them: whoever logs never waits for what reads or stores the logs."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from itertools import accumulate

QUEUE_BYTES = 4 << 20
"""Lines that wait for the writer, in bytes; what does not fit is dropped and counted."""

PAUSE_SECONDS = 0.02
"""Lines of this long are written together, so that a line costs no switch of threads."""

_FULL = "whatever reads them is too slow"
_PIPE_MILLISECONDS = 1_000
"""How long to wait for room in a pipe that refuses instead of blocking."""


class LogWriter:
    """Writes lines to a file descriptor from a daemon thread. Idle, it does nothing at all."""

    def __init__(
        self, describe: Callable[[int, str], bytes], descriptor: int = 2, queue_bytes: int = QUEUE_BYTES
    ) -> None:
        """`describe(n, why)` is the line that reports `n` dropped lines once writing works again."""
        self.describe = describe
        self._descriptor = descriptor
        self._queue_bytes = queue_bytes
        self._lines: list[bytes] = []
        self._bytes = 0
        """Of lines that wait or are being written."""
        self._unreported = 0
        self._why = ""
        self._torn = False
        """Whether the last line in the file lacks its end."""
        self.dropped = 0
        """Lines that were not written, ever."""
        self._lock = threading.Condition(threading.RLock())  # a signal handler may log while its thread logs
        self._filled = threading.Event()
        threading.Thread(target=self._run, name="log-writer", daemon=True).start()

    def put(self, line: bytes) -> None:
        """Queues one line with its end; returns at once."""
        with self._lock:
            if self._bytes + len(line) > self._queue_bytes:
                self._drop(1, _FULL)
                return
            self._lines.append(line)
            self._bytes += len(line)
        if not self._filled.is_set():
            self._filled.set()

    def flush(self, seconds: float) -> bool:
        """Waits for the lines that are queued; False if they were not written or dropped within `seconds`."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._bytes, seconds)

    def _drop(self, n: int, why: str) -> None:
        self.dropped += n
        self._unreported += n
        self._why = why

    def _run(self) -> None:
        while True:
            self._filled.wait()
            time.sleep(PAUSE_SECONDS)
            self._filled.clear()
            with self._lock:
                lines, self._lines = self._lines, []
                reported, why = self._unreported, self._why
            self._write(lines, reported, why)

    def _write(self, lines: Sequence[bytes], reported: int, why: str) -> None:
        """Writes a batch and, first, how many lines are missing before it."""
        report = [self.describe(reported, why)] if reported else []
        batch = [*report, *lines]
        start = b"\n" if self._torn else b""
        sent, error = _write_all(self._descriptor, start + b"".join(batch))
        whole = _whole_lines(batch, sent - len(start))
        with self._lock:
            if whole >= len(report):
                self._unreported -= reported
            missing = len(lines) - max(0, whole - len(report))
            if missing:
                self._drop(missing, error)
            if sent:
                self._torn = sent - len(start) != sum(map(len, batch[:whole]))
            self._bytes -= sum(map(len, lines))
            self._lock.notify_all()


def _write_all(descriptor: int, text: bytes) -> tuple[int, str]:
    """How many bytes were written, and why not more."""
    rest = memoryview(text)
    try:
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                waiting = select.poll()
                waiting.register(descriptor, select.POLLOUT)
                if not waiting.poll(_PIPE_MILLISECONDS):
                    return len(text) - len(rest), _FULL
    except OSError as error:
        return len(text) - len(rest), str(error.strerror)
    return len(text), ""


def _whole_lines(lines: Sequence[bytes], sent: int) -> int:
    """How many lines the first `sent` bytes contain whole."""
    return sum(end <= sent for end in accumulate(map(len, lines)))
