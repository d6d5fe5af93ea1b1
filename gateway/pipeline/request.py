"""The input of the pipeline: a request, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsys.domain import NO_FILTER, NO_IDS, History, Ids, ItemFilter


@dataclass(frozen=True, slots=True)
class Request:
    """One user's request. The history is resolved: stored, recorded or sent, all event types, nothing after `as_of`."""

    history: History
    as_of: int
    count: int
    exclude_item_ids: Ids = field(default_factory=lambda: NO_IDS)
    item_filter: ItemFilter = NO_FILTER
    preferred_genres: tuple[str, ...] = ()
    user_id: int | None = None
    request_id: str = ""
    """For the logs of all processes that work on it."""
    live: bool = False
    """Whether somebody waits for the answer now, so that under load a quick one is worth more than a full one."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """A request with what follows from it when it begins, the same for all stages."""

    request: Request
    sequence: History
    """The events of the history that are evidence of taste, see `History.sequence`."""
    hidden_ids: Ids
    """int64[n]: items that must not be shown to anybody, as of the beginning of the request."""
    forbidden_ids: Ids
    """int64[n], ascending: seen, excluded and hidden items."""
    forbidden_besides_sequence: Ids
    """int64[n]: the forbidden items that the events of the sequence do not name as seen; may repeat."""
