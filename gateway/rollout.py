"""Which bundle version new requests are pinned to, and when the gateway moves to the next one.

It moves when its own files are loaded and a rank server and every reachable process have the version ready. A
process that is missing, or refuses, delays the move by `timeout_seconds` at most and is degraded from then on. An
unreachable one delays nothing, unless it is the only rank server. Requests in flight keep the version they began with.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from gateway.backends.backends import Backend
from gateway.serving import Serving
from recsys.errors import BundleMissing

logger = logging.getLogger(__name__)


class Rollout:
    """Holds the version that new requests use. It lives on the event loop."""

    def __init__(
        self,
        released: Callable[[], Serving],
        backends: Sequence[Backend],
        *,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`released`: the released version once the gateway's own files of it are loaded; raises BundleMissing.

        Nothing is active before the first `step`.
        """
        self._released = released
        self._backends = backends
        self._timeout = timeout_seconds
        self._clock = clock
        self._active: Serving | None = None
        self._waiting_for = ""
        self._since = 0.0

    @property
    def active(self) -> Serving | None:
        """What new requests use; None until a bundle has been loaded. The first one is used at once."""
        if self._active is None:
            self.step()
        return self._active

    def serving(self) -> Serving:
        """What a new request uses; raises BundleMissing, which says why there is none."""
        return self.active or self._released()

    @property
    def used_names(self) -> frozenset[str]:
        """Names of the processes that the active or the released version may call; none if no bundle is loaded."""
        try:
            released = self._released()
        except BundleMissing:
            return frozenset() if self._active is None else self._active.known_names
        return released.known_names if self._active is None else released.known_names | self._active.known_names

    def step(self) -> None:
        """Moves to the released version as soon as it may."""
        try:
            target = self._released()
        except BundleMissing:
            return
        if self._active is not None and target.version == self._active.version:
            self._waiting_for = ""
            return
        if self._waiting_for != target.version:
            self._waiting_for, self._since = target.version, self._clock()
        missing = [] if self._active is None else self._missing(target)
        if missing and self._clock() - self._since < self._timeout:
            return
        if missing:
            logger.warning("moving to %s without %s", target.version, "; ".join(missing))
        logger.info("new requests use bundle %s", target.version)
        self._active, self._waiting_for = target, ""
        for backend in self._backends:
            backend.wanted_version = target.version

    def _missing(self, target: Serving) -> list[str]:
        """The processes that the move waits for, and why."""
        missing = []
        ready = {backend.name for backend in self._backends if backend.is_ready(target.version)}
        for backend in self._backends:
            if backend.name not in target.backend_names or backend.is_ready(target.version):
                continue
            if backend.reachable or (backend.name == target.ranker_name and backend.name not in ready):
                missing.append(
                    f"{backend.name} ({backend.refusal(target.version) or backend.cause or 'still loading'})"
                )
        return missing
