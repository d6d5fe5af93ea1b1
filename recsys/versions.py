"""Which bundle versions a process holds: it follows CURRENT, keeps PREVIOUS, and refuses what fails the self-check.

A version becomes ready only after its files were hashed, loaded and had answered the golden requests. What fails is
kept as refused, with the reason, while the version served so far goes on. Versions are plain objects: a call that has
one keeps it alive, so retiring a version never disturbs a call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from recsys import __version__
from recsys.bundle import Bundle, BundleStore, Release
from recsys.errors import BundleError, BundleMismatch, BundleMissing, RecsysError
from recsys.telemetry import Telemetry
from recsys.v1 import types_pb2

logger = logging.getLogger(__name__)

T = TypeVar("T")

LINGER_SECONDS = 60.0
"""How long a version that is neither current nor previous is kept after its last use."""

RETRY_SECONDS = 30.0
"""How long a refused version is left alone before the next attempt."""


@dataclass(slots=True)
class Held(Generic[T]):
    """A version that is loaded and checked."""

    version: str
    servable: T
    bundle: Bundle
    last_used: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    at: float


class Versions(Generic[T]):
    """The versions of one role. Reading is lock-free; loading is done by one thread at a time."""

    def __init__(
        self,
        store: BundleStore,
        role: str,
        load: Callable[[Bundle], T],
        *,
        check: Callable[[T, Bundle], None],
        telemetry: Telemetry,
    ) -> None:
        """`load` makes what serves of a verified bundle, `check` repeats the golden requests; both raise to refuse."""
        self.role = role
        self._store = store
        self._load = load
        self._check = check
        self._telemetry = telemetry
        self._held: dict[str, Held[T]] = {}
        self._refused: dict[str, _Refusal] = {}
        self._active: str | None = None
        self._trouble = "no bundle was looked for yet"
        self._published: set[tuple[str, str]] = set()
        self._loading = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, poll_seconds: float, on_change: Callable[[bool], None]) -> None:
        """Looks for a release now and every `poll_seconds`, in a thread; tells whether there is an active version."""

        def look_until_closed() -> None:
            while True:
                self.refresh()
                on_change(self._active is not None)
                if self._stopping.wait(poll_seconds):
                    return

        self._thread = threading.Thread(target=look_until_closed, name=f"{self.role}-versions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops following, and waits for a load that is under way.

        An interpreter that ends while ONNX Runtime builds a session in another thread aborts the process.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def refresh(self) -> None:
        """One look at CURRENT: loads what is new, activates what is ready, retires what is not needed any more."""
        try:
            release = self._store.release()
            wanted = [version for version in (release.current, release.previous) if version is not None]
            for version in wanted:
                if version not in self._held and self._may_try(version):
                    self._try_load(version)
                self._activate(release)
            self._retire(wanted)
        except (RecsysError, OSError) as error:
            self._complain(str(error))

    def active(self) -> Held[T]:
        """The version that new work uses; raises BundleMissing that says why there is none."""
        held = self._held.get(self._active or "")
        if held is None:
            raise BundleMissing(f"{self.role} has no bundle to serve: {self._trouble}")
        held.last_used = time.monotonic()
        return held

    def find(self, version: str) -> Held[T] | None:
        """The version if it is ready, without loading anything; "" is the active one."""
        if not version:
            return self.active()
        held = self._held.get(version)
        if held is not None:
            held.last_used = time.monotonic()
        return held

    async def resolve(self, version: str) -> Held[T]:
        """The version, loaded in a thread where it is on disk only; "" is the active one.

        Raises:
            BundleMissing: not on disk; the message says what is held.
            BundleError: it was refused, and why.
        """
        held = self.find(version)
        return held if held is not None else await asyncio.to_thread(self.obtain, version)

    def obtain(self, version: str) -> Held[T]:
        """Like `resolve`, blocking. Callers that ask at the same time load it once."""
        if (held := self.find(version)) is not None:
            return held
        if not self._may_try(version):
            raise BundleMismatch(f"{self.role} refuses bundle {version}: {self._refused[version].reason}")
        if version not in self._store.versions():
            raise BundleMissing(
                f"{self.role} does not hold bundle {version}, and it is not on disk; it holds {self._names()}"
            )
        self._try_load(version)
        if (held := self.find(version)) is None:
            raise BundleMismatch(f"{self.role} refuses bundle {version}: {self._refused[version].reason}")
        return held

    def ready_versions(self) -> list[str]:
        """Versions that are loaded and checked, newest first (version names begin with their time)."""
        return sorted(self._held, reverse=True)

    def status(self) -> types_pb2.ServingStatus:
        """What a `Status` rpc answers."""
        return types_pb2.ServingStatus(
            role=self.role,
            ready_versions=self.ready_versions(),
            refused_versions=[
                types_pb2.RefusedVersion(bundle_version=version, reason=refusal.reason)
                for version, refusal in sorted(self._refused.items(), reverse=True)
            ],
            active_version=self._active or "",
            software_version=__version__,
        )

    def _names(self) -> str:
        return ", ".join(self.ready_versions()) or "none"

    def _may_try(self, version: str) -> bool:
        refusal = self._refused.get(version)
        return refusal is None or time.monotonic() - refusal.at >= RETRY_SECONDS

    def _try_load(self, version: str) -> None:
        """Loads a version, or notes why not. One at a time: memory for two loads at once may not be there."""
        with self._loading:
            if version in self._held or not self._may_try(version):
                return
            started = time.monotonic()
            try:
                held = self._loaded(version)
            except BundleError as error:
                self._refuse(version, str(error))
            except Exception as error:
                reason = f"{type(error).__name__}: {error}; the log has the traceback. Publish again, or roll back"
                if version not in self._refused:
                    logger.exception("%s: bundle %s cannot be loaded", self.role, version)
                self._refuse(version, reason)
            else:
                self._refused = {name: why for name, why in self._refused.items() if name != version}
                self._held = {**self._held, version: held}
                self._telemetry.bundle_loads.labels(self.role, "loaded").inc()
                logger.info("%s: bundle %s is ready after %.2f s", self.role, version, time.monotonic() - started)
            self._publish_states()

    def _loaded(self, version: str) -> Held[T]:
        bundle = self._store.open(version)
        logger.info("%s: bundle %s: hashing and loading its files", self.role, version)
        bundle.verify(self.role)
        servable = self._load(bundle)
        self._check(servable, bundle)
        return Held(version, servable, bundle)

    def _refuse(self, version: str, reason: str) -> None:
        known = self._refused.get(version)
        if known is None or known.reason != reason:
            logger.error("%s: bundle %s is refused: %s", self.role, version, reason)
        self._refused = {**self._refused, version: _Refusal(reason, time.monotonic())}
        self._telemetry.bundle_loads.labels(self.role, "refused").inc()

    def _activate(self, release: Release) -> None:
        """CURRENT if it is ready; otherwise what was active stays, and at first PREVIOUS may stand in."""
        chosen = next((v for v in (release.current, self._active, release.previous) if v in self._held), None)
        if chosen is None:
            refusal = self._refused.get(release.current)
            self._complain(f"bundle {release.current} is refused: {refusal.reason}" if refusal else "none is loaded")
            return
        self._trouble = ""
        if chosen != self._active:
            logger.info("%s: bundle %s is active, after %s", self.role, chosen, self._active or "none")
            with self._loading:
                self._active = chosen
                self._publish_states()

    def _complain(self, trouble: str) -> None:
        """Logs what keeps the process from following CURRENT, once per change."""
        if trouble != self._trouble:
            self._trouble = trouble
            serving = f"goes on serving {self._active}" if self._active else "is not serving"
            logger.warning("%s %s: %s", self.role, serving, trouble)

    def _retire(self, wanted: list[str]) -> None:
        """Drops versions that are neither released, active nor used lately, and refusals of versions long gone."""
        with self._loading:
            now, on_disk = time.monotonic(), set(self._store.versions())
            needed = {*wanted, self._active}
            for version, held in list(self._held.items()):
                if version not in needed and now - held.last_used >= LINGER_SECONDS:
                    logger.info("%s: bundle %s is retired", self.role, version)
                    self._held = {name: other for name, other in self._held.items() if name != version}
            self._refused = {name: why for name, why in self._refused.items() if name in needed or name in on_disk}
            self._publish_states()

    def _publish_states(self) -> None:
        states = {(v, "active" if v == self._active else "ready") for v in self._held}
        states |= {(v, "refused") for v in self._refused}
        for version, state in self._published - states:
            self._telemetry.bundle_info.remove(self.role, version, state)
        for version, state in states:
            self._telemetry.bundle_info.labels(self.role, version, state).set(1)
        self._published = states
