"""Files that are not what the gateway left when it died: damaged, cut, of a newer version, read-only, or restored."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from recsys.v1.recommend_pb2 import RecommendRequest, StatusRequest
from tests.faults.contract import RESTART, Allowed, Broken, Fault
from tests.faults.load import BATCH, views
from tests.faults.mounts import call
from tests.faults.system import Setup, System, wait_gone
from tests.integration.live import publish_again
from tests.waiting import eventually

WITHOUT_EVENTS = Allowed(outage_seconds=RESTART.outage_seconds, late=True, unacknowledged=True)
_LOGS = ("-wal", "-shm")
"""What SQLite keeps next to a file."""
_LEARNED_FROM = 3_000
"""Events that a bundle holds, and the restored file does not: more than are recorded afterwards."""
_HIDDEN = 20
_PAGE = 4096


def _damage(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(b"\0" * 100)


def _corrupt(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(max(_PAGE, file.stat().st_size // 2 // _PAGE * _PAGE))
        stream.write(b"\x5a" * _PAGE)


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2 + 1)


def _make_newer(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version=99")


def _make_read_only(file: Path) -> None:
    call("chattr", "+i", str(file))


HARMS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "damaged": ("begins with zeros", _damage),
    "corrupt": ("has a page of rubbish in its middle", _corrupt),
    "cut": ("is cut in half", _cut),
    "newer": ("is of a newer version", _make_newer),
    "read-only": ("cannot be written", _make_read_only),
}


def _spoilt(kind: str, name: str) -> Fault:
    """The gateway finds the file so when it is started again; in the end the file is back as it was."""
    about, harm = HARMS[name]

    @contextmanager
    def cause(system: System, seconds: float) -> Iterator[None]:
        file: Path = getattr(system, f"{kind}_file")
        _kill_gateway(system)
        _write_back(file)
        saved = file.with_suffix(".saved")
        shutil.copyfile(file, saved)
        harm(file)
        try:
            yield
        finally:
            if name == "read-only":
                call("chattr", "-i", str(file))
                saved.unlink()
            elif kind == "events":
                if name == "corrupt":  # it has been opened, and may have been written
                    _kill_gateway(system)
                    system.counted_from = time.monotonic()
                for end in _LOGS:
                    Path(f"{file}{end}").unlink(missing_ok=True)
                saved.replace(file)

    allowed = WITHOUT_EVENTS if kind == "events" else RESTART
    return Fault(f"{kind}-{name}", f"the file of {kind} {about}", cause, allowed)


def _kill_gateway(system: System) -> None:
    if gateway := system.servers().get("gateway"):
        gateway.kill()
        wait_gone(gateway)


def _write_back(file: Path) -> None:
    """Everything into the file itself; nothing is left in its write-ahead log."""
    with closing(sqlite3.connect(file, timeout=10)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _own_bundles(setup: Setup) -> None:
    own = setup.folder / "bundles"
    shutil.copytree(setup.bundle_root, own, symlinks=True)
    setup.bundle_root = own


@contextmanager
def _restore_backup(system: System, seconds: float) -> Iterator[None]:
    """Events are recorded, learned from and then lost with the disk; the backup is older than the bundle."""
    file, backup = system.events_file, system.events_file.with_suffix(".backup")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    with system.stub() as stub:
        for first in range(0, _LEARNED_FROM, BATCH):
            stub.RecordEvents(views(system, "learned", first), timeout=30)
    with closing(sqlite3.connect(file)) as source:
        log = source.execute("SELECT id FROM log ORDER BY rowid DESC LIMIT 1").fetchone()[0]
        last = source.execute("SELECT max(row_id) FROM events").fetchone()[0]
    version = publish_again(system.store, events_watermarks={log: last})
    eventually(lambda: _active(system) == version, "the bundle that has learned from the events is served")
    _kill_gateway(system)
    for end in _LOGS:
        Path(f"{file}{end}").unlink(missing_ok=True)
    backup.replace(file)
    system.counted_from = time.monotonic()
    yield


def _active(system: System) -> str:
    with system.stub() as stub:
        return str(stub.Status(StatusRequest(), timeout=5, wait_for_ready=True).gateway.active_version)


def _hide(setup: Setup) -> None:
    file = setup.folder / "hidden.txt"
    file.touch()
    setup.gateway_settings["hidden-items"] = str(file)


@contextmanager
def _cut_hidden(system: System, seconds: float) -> Iterator[None]:
    """What was hidden must not be shown because somebody's editor truncates before it writes."""
    file, hidden = system.setup.folder / "hidden.txt", set(system.items[:_HIDDEN])
    text = "".join(f"{item}\n" for item in sorted(hidden))
    file.write_text(text)
    eventually(lambda: not _shown(system) & hidden, "the items are hidden")
    os.truncate(file, 0)
    yield
    shown = _shown(system) & hidden
    file.write_text(text)
    if shown:
        raise Broken(f"{len(shown)} of {len(hidden)} hidden items were shown")


def _shown(system: System) -> set[int]:
    with system.stub() as stub:
        request = RecommendRequest(user_key="nobody", count=min(500, len(system.items)))
        return {item.item_id for item in stub.Recommend(request, timeout=5).items}


FAULTS = (
    *(_spoilt("answers", name) for name in HARMS),
    *(_spoilt("events", name) for name in HARMS),
    Fault("events-restored", "an old backup of the events file is restored", _restore_backup, RESTART, _own_bundles),
    Fault("hidden-items-cut", "the file of hidden items is cut to nothing", _cut_hidden, prepare=_hide),
)
