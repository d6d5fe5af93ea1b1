"""From a public message to the pipeline's request: who asks, what they did, and at which moment."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway.api import requests
from gateway.bundle.resolve import ResolvedId
from gateway.bundle.served import ServedBundle
from gateway.events.recorder import EventRecorder
from gateway.events.store import RecordedEvent
from gateway.pipeline.request import Request
from gateway.pipeline.stages import StageReport, Status
from recsys import convert
from recsys.domain import MAX_REQUEST_HISTORY, History
from recsys.errors import NotFound, RecsysError
from recsys.v1 import recommend_pb2


@dataclass(frozen=True, slots=True)
class Question:
    """A request as the pipeline takes it, and what the answer and the log need besides."""

    request: Request
    user_key: str
    """Canonical; empty for an anonymous visitor."""
    stages: tuple[StageReport, ...] = ()
    """What happened before the pipeline."""
    debug: bool = False


async def recommend_question(
    message: recommend_pb2.RecommendRequest, bundle: ServedBundle, recorder: EventRecorder, now: int
) -> Question:
    """Checks the message and resolves user, history and moment. `now`: Unix seconds of the wall clock.

    Raises:
        InvalidRequest: names the field.
    """
    user_id, user_key = requests.user_of(message)
    user = bundle.user(user_id, user_key)
    moment = requests.as_of_of(message)
    preferred = requests.preferred_of(message, bundle.catalogue)
    item_filter = requests.filter_of(message, bundle.catalogue)
    count, excluded = requests.count_of(message.count), requests.excluded_of(message)
    stages: tuple[StageReport, ...] = ()
    if message.HasField("history"):
        history = _sent_history(message, bundle, moment, now)
    else:
        history, stages = await _stored_history(user, bundle, recorder)
    as_of = bundle.as_of(history, now) if moment is None else moment
    request = Request(
        history.until(as_of), as_of, count, excluded, item_filter, preferred, None if user is None else user.id
    )
    named = "" if user_id is None else str(user_id)
    return Question(request, named if user is None else user.key, stages, message.debug)


def similar_question(message: recommend_pb2.SimilarItemsRequest, bundle: ServedBundle, now: int) -> Question:
    """Checks the message; the item becomes the only event of a history, so it is never its own answer.

    Raises:
        InvalidRequest: names the field.
        NotFound: the bundle does not know the item.
    """
    count, excluded = requests.count_of(message.count), requests.excluded_of(message)
    item_filter = requests.filter_of(message, bundle.catalogue)
    item_id = requests.item_of(message, bundle.identities.items)
    if item_id is None or bundle.item_row(item_id) < 0:
        name = message.item_key if item_id is None else item_id
        raise NotFound(f"item {name!r}: bundle {bundle.version} does not know it; check the id, or publish again")
    as_of = bundle.as_of(History.empty(), now)
    return Question(Request(History.of([item_id], [as_of]), as_of, count, excluded, item_filter), "")


def _sent_history(
    message: recommend_pb2.RecommendRequest, bundle: ServedBundle, moment: int | None, now: int
) -> History:
    """The history in the message; events without a time happened at the moment of the request."""
    as_of = bundle.as_of(History.empty(), now) if moment is None else moment
    return convert.history_from_proto(message.history, as_of=as_of, limit=MAX_REQUEST_HISTORY)


async def _stored_history(
    user: ResolvedId | None, bundle: ServedBundle, recorder: EventRecorder
) -> tuple[History, tuple[StageReport, ...]]:
    """The stored and recorded history; where the recorded part cannot be read, the stored one alone, and it says so."""
    started = time.perf_counter()
    recorded: tuple[RecordedEvent, ...] = ()
    status, cause = Status.OK, ""
    try:
        if user is not None:
            recorded = await recorder.of(user.key)
    except RecsysError as error:
        status, cause = Status.FAILED, str(error)
    history = bundle.history(user, recorded)
    microseconds = int((time.perf_counter() - started) * 1e6)
    return history, (StageReport("history", status, microseconds, 0, 0, cause),)
