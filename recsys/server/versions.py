"""Which bundle versions a process has loaded: it follows CURRENT, keeps PREVIOUS, refuses what fails its self-check.

A version becomes ready only after its files have been hashed and loaded, and have answered the golden requests. One
that fails is recorded as refused, with the reason, while the version served so far continues. Versions are plain
objects: a call that has one keeps it alive, so retiring a version never disturbs a call.
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
from recsys.errors import BundleError, BundleMismatch, BundleMissing, NotReady, RecsysError
from recsys.server.loading import announced
from recsys.server.telemetry import Telemetry
from recsys.v1 import types_pb2

logger = logging.getLogger(__name__)

T = TypeVar("T")

LINGER_SECONDS = 60.0
"""How long a version that is neither current nor previous is kept after its last use."""

RETRY_SECONDS = 30.0
"""How long to wait before a refused version is tried again."""


@dataclass(slots=True)
class LoadedVersion(Generic[T]):
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
        """`load` builds a servable from a verified bundle, `check` repeats its golden requests; both may raise."""
        self.role = role
        self._store = store
        self._load = load
        self._check = check
        self._telemetry = telemetry
        self._loaded: dict[str, LoadedVersion[T]] = {}
        self._refused: dict[str, _Refusal] = {}
        self._active: str | None = None
        self._problem = "CURRENT has not been read yet"
        self._published: set[tuple[str, str]] = set()
        self._loading = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(
        self, poll_seconds: float, on_change: Callable[[bool], None], loaded: Callable[[], None] = lambda: None
    ) -> None:
        """Reads CURRENT now and every `poll_seconds`, in a thread.

        `on_change` learns each time whether a version is active; `loaded` is called before, when versions have been
        loaded or dropped since the last time.
        """

        def refresh_until_closed() -> None:
            known: set[str] = set()
            while True:
                self.refresh()
                if known != set(self._loaded):
                    known = set(self._loaded)
                    loaded()
                on_change(self._active is not None)
                if self._stopping.wait(poll_seconds):
                    return

        self._thread = threading.Thread(target=refresh_until_closed, name=f"{self.role}-versions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops following, and waits for a load in progress.

        An interpreter that exits while ONNX Runtime builds a session in another thread aborts the process.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def refresh(self) -> None:
        """Reads CURRENT once: loads what is new, activates what is ready, retires what is no longer needed."""
        try:
            release = self._store.release()
            wanted = [version for version in (release.current, release.previous) if version is not None]
            for version in wanted:
                if version not in self._loaded and self._may_try(version):
                    self._try_load(version)
                self._activate(release)
            self._retire(wanted)
        except (RecsysError, OSError) as error:
            self._log_problem(str(error))

    def active(self) -> LoadedVersion[T]:
        """The version that new work uses; raises NotReady, which says why there is none."""
        loaded = self._loaded.get(self._active or "")
        if loaded is None:
            raise NotReady(f"{self.role} has no bundle to serve: {self._problem}")
        loaded.last_used = time.monotonic()
        return loaded

    def find(self, version: str) -> LoadedVersion[T] | None:
        """The version if it is ready, without loading anything; "" means the active one."""
        if not version:
            return self.active()
        loaded = self._loaded.get(version)
        if loaded is not None:
            loaded.last_used = time.monotonic()
        return loaded

    async def resolve(self, version: str) -> LoadedVersion[T]:
        """The version, loaded in a thread if it is only on disk; "" means the active one.

        Raises:
            BundleMissing: not on disk, or neither released nor the newest there; the message lists the loaded versions.
            BundleError: it was refused; the message says why.
        """
        loaded = self.find(version)
        return loaded if loaded is not None else await asyncio.to_thread(self.obtain, version)

    def obtain(self, version: str) -> LoadedVersion[T]:
        """Like `resolve`, but blocking. Concurrent callers load the version once."""
        if (loaded := self.find(version)) is not None:
            return loaded
        if not self._may_try(version):
            raise BundleMismatch(f"{self.role} refuses bundle {version}: {self._refused[version].reason}")
        if version not in self._loadable():
            raise BundleMissing(
                f"{self.role} has not loaded bundle {version}, and it is not on disk, or neither released nor newest "
                f"there; loaded: {self._names()}"
            )
        self._try_load(version)
        if (loaded := self.find(version)) is None:
            raise BundleMismatch(f"{self.role} refuses bundle {version}: {self._refused[version].reason}")
        return loaded

    def _loadable(self) -> set[str]:
        """Versions on disk that a call may have loaded: the released one, the one before it, and the newest, which may
        be the next. Whoever can call would otherwise fill the memory with all of them.
        """
        on_disk = self._store.versions()
        try:
            release = self._store.release()
        except BundleError:
            return set(on_disk[-1:])
        wanted = (release.current, release.previous, *on_disk[-1:])
        return {version for version in wanted if version in on_disk}

    def ready_versions(self) -> list[str]:
        """Versions that are loaded and checked, newest first (version names begin with their time)."""
        return sorted(self._loaded, reverse=True)

    def status(self) -> types_pb2.ServingStatus:
        """What a `Status` RPC returns."""
        return types_pb2.ServingStatus(
            role=self.role,
            ready_versions=self.ready_versions(),
            refused_versions=[
                types_pb2.RefusedVersion(bundle_version=version, reason=refusal.reason)
                for version, refusal in sorted(self._refused.items(), reverse=True)
            ],
            active_version=self._active or "",
            software_version=__version__,
            reads_packed=True,
        )

    def _names(self) -> str:
        return ", ".join(self.ready_versions()) or "none"

    def _may_try(self, version: str) -> bool:
        refusal = self._refused.get(version)
        return refusal is None or time.monotonic() - refusal.at >= RETRY_SECONDS

    def _try_load(self, version: str) -> None:
        """Loads a version, or records why not. One at a time: there may not be memory for two."""
        with self._loading:
            if version in self._loaded or not self._may_try(version):
                return
            started = time.monotonic()
            try:
                loaded = self._load_checked(version)
            except BundleError as error:
                self._refuse(version, str(error))
            except Exception as error:
                reason = f"{type(error).__name__}: {error}; the log has the traceback. Publish again, or roll back"
                if version not in self._refused:
                    logger.exception("%s: bundle %s cannot be loaded", self.role, version)
                self._refuse(version, reason)
            else:
                self._refused = {name: why for name, why in self._refused.items() if name != version}
                self._loaded = {**self._loaded, version: loaded}
                self._telemetry.bundle_loads.labels(self.role, "loaded").inc()
                logger.info("%s: bundle %s is ready after %.2f s", self.role, version, time.monotonic() - started)
            self._publish_states()

    def _load_checked(self, version: str) -> LoadedVersion[T]:
        bundle = self._store.open(version)
        logger.info("%s: bundle %s: hashing and loading its files", self.role, version)
        bundle.verify(self.role)
        with announced():
            servable = self._load(bundle)
        self._check(servable, bundle)
        return LoadedVersion(version, servable, bundle)

    def _refuse(self, version: str, reason: str) -> None:
        known = self._refused.get(version)
        if known is None or known.reason != reason:
            logger.error("%s: bundle %s is refused: %s", self.role, version, reason)
        self._refused = {**self._refused, version: _Refusal(reason, time.monotonic())}
        self._telemetry.bundle_loads.labels(self.role, "refused").inc()

    def _activate(self, release: Release) -> None:
        """CURRENT if it is ready; otherwise the active version stays, or PREVIOUS if there is none yet."""
        chosen = next((v for v in (release.current, self._active, release.previous) if v in self._loaded), None)
        if chosen is None:
            refusal = self._refused.get(release.current)
            self._log_problem(f"bundle {release.current} is refused: {refusal.reason}" if refusal else "none is loaded")
            return
        self._problem = ""
        if chosen != self._active:
            logger.info("%s: bundle %s is active, after %s", self.role, chosen, self._active or "none")
            with self._loading:
                self._active = chosen
                self._publish_states()

    def _log_problem(self, problem: str) -> None:
        """Logs what keeps the process from following CURRENT, once per change of problem."""
        if problem != self._problem:
            self._problem = problem
            serving = f"continues to serve {self._active}" if self._active else "is not serving"
            logger.warning("%s %s: %s", self.role, serving, problem)

    def _retire(self, wanted: list[str]) -> None:
        """Drops versions that are neither released, active nor recently used, and refusals of deleted ones."""
        with self._loading:
            now, on_disk = time.monotonic(), set(self._store.versions())
            needed = {*wanted, self._active}
            for version, loaded in list(self._loaded.items()):
                if version not in needed and now - loaded.last_used >= LINGER_SECONDS:
                    logger.info("%s: bundle %s is retired", self.role, version)
                    self._loaded = {name: other for name, other in self._loaded.items() if name != version}
            self._refused = {name: why for name, why in self._refused.items() if name in needed or name in on_disk}
            self._publish_states()

    def _publish_states(self) -> None:
        states = {(v, "active" if v == self._active else "ready") for v in self._loaded}
        states |= {(v, "refused") for v in self._refused}
        for version, state in self._published - states:
            self._telemetry.bundle_info.remove(self.role, version, state)
        for version, state in states:
            self._telemetry.bundle_info.labels(self.role, version, state).set(1)
        self._published = states
