"""A thread that writes, in batches, what waits in a bounded queue."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from gateway.events.batches import batches

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry")

_CLOSE_SECONDS = 5.0


class BatchWriter(Generic[Entry]):
    """Whatever a write raises costs its batch only; a thread that has died is replaced when the next entry comes."""

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[Entry]], None],
        failed: Callable[[Sequence[Entry], BaseException], None],
        waiting: queue.Queue[Entry | None],
        batch: int,
    ) -> None:
        """`write` is called by the thread, with at most `batch` entries; if it raises, `failed` is."""
        self._name, self._write, self._failed = name, write, failed
        self._waiting, self._batch = waiting, batch
        self._thread = self._start()

    def put(self, entry: Entry) -> None:
        """Hands over an entry without waiting; raises queue.Full. Called by one thread."""
        self._waiting.put_nowait(entry)
        if not self._thread.is_alive():
            self._thread = self._start()

    def close(self) -> bool:
        """Writes what waits; false if that is not done within 5 seconds, and then it may still go on."""
        try:
            self._waiting.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            return False
        self._thread.join(_CLOSE_SECONDS)
        return not self._thread.is_alive()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._write_until_closed, name=self._name, daemon=True)
        thread.start()
        return thread

    def _write_until_closed(self) -> None:
        for batch in batches(self._waiting, self._batch):
            try:
                self._write(batch)
            except BaseException as error:
                logger.exception("%s: a batch of %d was not written", self._name, len(batch))
                self._failed(batch, error)
                if not isinstance(error, Exception):
                    raise
