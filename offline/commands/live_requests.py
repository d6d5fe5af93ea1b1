"""Requests that a gateway has answered, asked again: whose they were, at which moment, and what was known by then.

The gateway logs every answer. A user's history is what the bundle stores and what was recorded since, up to the moment
of the request; a history that a caller sent along is not logged, and neither are filters and exclusions.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.bundle.served import ServedBundle
from gateway.events.sqlite import connect_read_only
from gateway.events.sqlite_store import events_of, log_id
from gateway.pipeline.request import Request
from recsys.bundle import Bundle
from recsys.config import ANSWERS_FILE, EVENTS_FILE
from recsys.errors import DataMalformed, DataMissing

_LATEST = """
SELECT user_key, as_of FROM answers
WHERE method = 'Recommend' AND user_key <> '' AND bundle_version = ?
GROUP BY user_key, as_of ORDER BY max(row_id) DESC LIMIT ?
"""


def live_requests(bundle: Bundle, folder: Path, n: int, *, count: int) -> list[Request]:
    """The latest `n` different requests of users that a gateway answered with this bundle, for `count` items each.

    `folder`: where the gateway keeps its events and its answers.

    Raises:
        DataMissing: a file is not there, or no answer to a user was given with this bundle.
        DataMalformed: a file cannot be read.
    """
    with closing(_open(folder / ANSWERS_FILE)) as answers, closing(_open(folder / EVENTS_FILE)) as events:
        try:
            asked = answers.execute(_LATEST, (bundle.version, n)).fetchall()
            served = ServedBundle.load(bundle, log_id(events, folder / EVENTS_FILE))
            recorded = {key: events_of(events, key, served.watermark) for key, _ in asked}
        except sqlite3.Error as error:
            raise DataMalformed(f"{folder}: cannot be read ({error}); name the folder of a gateway's files") from error
    if not asked:
        raise DataMissing(
            f"{folder / ANSWERS_FILE}: no answer to a user with bundle {bundle.version}; send some requests first"
        )
    requests = []
    for key, moment in asked:
        user = served.user(None, key)
        history = served.history(user, recorded[key]).until(moment)
        requests.append(Request(history, moment, count, user_id=None if user is None else user.id))
    return requests


def _open(path: Path) -> sqlite3.Connection:
    """The file, for reading only."""
    if not path.is_file():
        raise DataMissing(f"{path}: no such file; name the folder of a gateway's files")
    return connect_read_only(path)
