"""From a public message to what the gateway works with: validated, and resolved against the served bundle."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway.api import validation
from gateway.bundle.resolve import Identities, ResolvedId
from gateway.bundle.served import ServedBundle
from gateway.events.recorder import EventRecorder
from gateway.events.store import MAX_RECORDED, Event, RecordedEvent
from gateway.pipeline.request import Request
from gateway.pipeline.stages import StageReport, Status
from recsys import convert
from recsys.domain import MAX_REQUEST_HISTORY, History
from recsys.errors import DeadlinePassed, NotFound, RecsysError
from recsys.logs import request_id_of_call
from recsys.v1 import recommend_pb2


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request for the pipeline, and what the response and the answer log need in addition."""

    request: Request
    user_key: str
    """Canonical; empty for an anonymous visitor."""
    stages: tuple[StageReport, ...] = ()
    """Reports of what happened before the pipeline."""
    debug: bool = False


async def parse_recommend(
    message: recommend_pb2.RecommendRequest, bundle: ServedBundle, recorder: EventRecorder, now: int
) -> ParsedRequest:
    """Validates the message and resolves user, history and time. `now`: Unix seconds of the wall clock.

    Raises:
        InvalidRequest: names the field.
    """
    user_id, user_key = validation.parse_user(message)
    user = bundle.user(user_id, user_key)
    as_of = validation.parse_as_of(message)
    preferred_genres = validation.parse_preferred_genres(message, bundle.catalogue)
    item_filter = validation.parse_filter(message, bundle.catalogue)
    count, excluded = validation.parse_count(message.count), validation.parse_excluded(message)
    stages: tuple[StageReport, ...] = ()
    if message.HasField("history"):
        history = _sent_history(message, bundle, as_of, now)
    else:
        history, stages = await _stored_history(user, bundle, recorder)
    live = as_of is None
    if as_of is None:
        as_of = bundle.as_of(history, now)
    request = Request(
        history.until(as_of),
        as_of,
        count,
        excluded,
        item_filter,
        preferred_genres,
        None if user is None else user.id,
        request_id_of_call.get(),
        live,
    )
    unresolved_key = "" if user_id is None else str(user_id)
    return ParsedRequest(request, unresolved_key if user is None else user.key, stages, message.debug)


def parse_similar(message: recommend_pb2.SimilarItemsRequest, bundle: ServedBundle, now: int) -> ParsedRequest:
    """Validates the message; the item becomes the only event of a history, so it is never its own answer.

    Raises:
        InvalidRequest: names the field.
        NotFound: the bundle does not know the item.
    """
    count, excluded = validation.parse_count(message.count), validation.parse_excluded(message)
    item_filter = validation.parse_filter(message, bundle.catalogue)
    item_id = validation.parse_item(message, bundle.identities.items)
    if item_id is None or bundle.item_row(item_id) < 0:
        name = message.item_key if item_id is None else item_id
        raise NotFound(f"item {name!r}: bundle {bundle.version} does not know it; check the id, or publish again")
    as_of = bundle.as_of(History.empty(), now)
    request = Request(
        History.of([item_id], [as_of]),
        as_of,
        count,
        excluded,
        item_filter,
        request_id=request_id_of_call.get(),
        live=True,
    )
    return ParsedRequest(request, "")


def parse_events(message: recommend_pb2.RecordEventsRequest, identities: Identities, received: int) -> list[Event]:
    """The events to record; one invalid event rejects the whole message.

    Raises:
        InvalidRequest: names `events[i].field`, what was found and what is allowed.
    """
    validation.check_event_count(len(message.events))
    return [
        validation.parse_event(f"events[{position}]", event, identities, received)
        for position, event in enumerate(message.events)
    ]


def _sent_history(
    message: recommend_pb2.RecommendRequest, bundle: ServedBundle, as_of: int | None, now: int
) -> History:
    """The history in the message; events without a time happened at the time of the request."""
    moment = bundle.as_of(History.empty(), now) if as_of is None else as_of
    return convert.history_from_proto(message.history, as_of=moment, limit=MAX_REQUEST_HISTORY)


async def _stored_history(
    user: ResolvedId | None, bundle: ServedBundle, recorder: EventRecorder
) -> tuple[History, tuple[StageReport, ...]]:
    """Stored and recorded events; if the recorded ones cannot be read, the stored ones only, as the report says."""
    started = time.perf_counter()
    recorded: tuple[RecordedEvent, ...] = ()
    status, cause = Status.OK, ""
    try:
        if user is not None:
            recorded = await recorder.of(user.key, after=bundle.watermark)
            if len(recorded) == MAX_RECORDED:
                cause = f"at most the newest {MAX_RECORDED} recorded events are used"
    except DeadlinePassed as error:
        status, cause = Status.TIMEOUT, str(error)
    except RecsysError as error:
        status, cause = Status.FAILED, str(error)
    history = bundle.history(user, recorded)
    microseconds = int((time.perf_counter() - started) * 1e6)
    return history, (StageReport("history", status, microseconds, 0, 0, cause),)
