"""The log of what was shown: every answer, which events may cite, for experiments and off-policy evaluation.

Written in batches by a thread; the queue is bounded, and what does not fit is dropped and counted. A response never
waits for the log.
"""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.events import sqlite
from gateway.events.batches import batches
from gateway.pipeline.stages import StageReport, Status
from recsys.domain import Candidates, Scores

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    row_id          INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id      TEXT NOT NULL,     -- what events cite
    method          TEXT NOT NULL,     -- Recommend or SimilarItems
    user_key        TEXT NOT NULL,     -- canonical; empty for an anonymous visitor
    time            INTEGER NOT NULL,  -- Unix seconds on the gateway's clock
    as_of           INTEGER NOT NULL,  -- the time for which the request was answered
    bundle_version  TEXT NOT NULL,
    policy          TEXT NOT NULL,     -- ranked, blended or reranked: the order that was served, see served_order
    degraded        INTEGER NOT NULL,
    items           TEXT NOT NULL      -- JSON list: {"item_id", "position" from 1, "score", "channels": {name: rank}}
) STRICT;
CREATE INDEX IF NOT EXISTS answers_by_request ON answers (request_id);
CREATE INDEX IF NOT EXISTS answers_by_time ON answers (time)
"""

_INSERT = """
INSERT INTO answers (request_id, method, user_key, time, as_of, bundle_version, policy, degraded, items)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_PRUNE = "DELETE FROM answers WHERE row_id IN (SELECT row_id FROM answers WHERE time < ? LIMIT ?)"
_MAX_BATCH = 500
_MAX_PRUNED = 1_000
"""Answers that are deleted with each batch, of those that are too old: no other worker waits long for its turn."""
_PAUSE_SECONDS = 0.2
_SECONDS_PER_DAY = 86_400


def served_order(stages: Sequence[StageReport]) -> str:
    """What determined the order. `reranked`: a post-ranking stage; `ranked`: the rank server; `blended`: neither.

    What is re-ranked is the ranked list, or the blended one if the answer is degraded or its policy says so.
    """
    worked = {stage.name for stage in stages if stage.status is Status.OK}
    return "reranked" if "rerank" in worked else "ranked" if "rank" in worked else "blended"


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """One answer as it was served."""

    request_id: str
    method: str
    user_key: str
    time: int
    as_of: int
    bundle_version: str
    policy: str
    degraded: bool
    candidates: Candidates
    scores: Scores

    def row(self) -> tuple[object, ...]:
        """The columns of the table, in order."""
        return (
            self.request_id,
            self.method,
            self.user_key,
            self.time,
            self.as_of,
            self.bundle_version,
            self.policy,
            int(self.degraded),
            json.dumps(_items(self.candidates, self.scores), separators=(",", ":")),
        )


def _items(candidates: Candidates, scores: Scores) -> list[dict[str, object]]:
    ids, values, ranks = candidates.item_ids.tolist(), scores.tolist(), candidates.ranks.tolist()
    return [
        {
            "item_id": ids[position],
            "position": position + 1,
            "score": values[position],
            "channels": {name: rank for name, rank in zip(candidates.channels, ranks[position], strict=True) if rank},
        }
        for position in range(len(ids))
    ]


class AnswerLog:
    """Appends answers to a SQLite file that the workers of a gateway share."""

    def __init__(
        self, path: Path, *, dropped: Callable[[int], None], keep_days: int = 30, capacity: int = 10_000
    ) -> None:
        """Opens the file; raises CannotStart if that fails. `dropped` is called with how many were not logged."""
        self._path = path
        self._dropped = dropped
        self._keep_seconds = keep_days * _SECONDS_PER_DAY
        self._connection = sqlite.connect(path, schema=SCHEMA, version=SCHEMA_VERSION, synchronous="NORMAL")
        self._queue: queue.Queue[LoggedAnswer | None] = queue.Queue(capacity)
        self._pruned = 0
        self._thread = threading.Thread(target=self._write_until_closed, name="answer-log", daemon=True)
        self._thread.start()

    def add(self, answer: LoggedAnswer) -> None:
        """Queues one answer; drops it if the queue is full. Never waits."""
        try:
            self._queue.put_nowait(answer)
        except queue.Full:
            self._dropped(1)

    def close(self) -> None:
        """Writes what waits, then closes the file."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _write_until_closed(self) -> None:
        for batch in batches(self._queue, _MAX_BATCH, pause_seconds=_PAUSE_SECONDS):
            self._write(batch)

    def _write(self, batch: Sequence[LoggedAnswer]) -> None:
        rows = [answer.row() for answer in batch]
        try:
            with sqlite.turn(self._path), sqlite.transaction(self._connection):
                self._connection.executemany(_INSERT, rows)
                self._prune(batch[-1].time)
        except (sqlite3.Error, OSError) as error:
            logger.warning("%s: %d answers not logged: %s", self._path, len(batch), error)
            self._dropped(len(batch))

    def _prune(self, now: int) -> None:
        if now - self._pruned >= _SECONDS_PER_DAY:
            deleted = self._connection.execute(_PRUNE, (now - self._keep_seconds, _MAX_PRUNED)).rowcount
            if deleted < _MAX_PRUNED:
                self._pruned = now
