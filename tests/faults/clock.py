"""The gateway's clock jumps: libfaketime answers instead of the system."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.faults.contract import Broken, Fault, NotPossible
from tests.faults.system import Setup, System

LIBRARIES = tuple(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_BECOME = "import os, sys; os.environ.update({}); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
_AHEAD, _BACK = "+400d", "-400d"
_SETTLE_SECONDS = 2.0


def _fake_clock(setup: Setup) -> None:
    library = os.environ.get("LIBFAKETIME") or next(map(str, LIBRARIES), "")
    if not library:
        raise NotPossible("libfaketime is not installed (Debian's package faketime)")
    now = setup.folder / "clock"
    now.write_text("+0")
    environment = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(now),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    setup.launch["gateway"] = ["-c", _BECOME.format(environment)]


def _jump(by: str) -> Fault:
    @contextmanager
    def cause(system: System, seconds: float) -> Iterator[None]:
        time.sleep(_SETTLE_SECONDS)
        before, now = _answers(system), system.setup.folder / "clock"
        now.write_text(by)
        yield
        now.write_text("+0")
        time.sleep(_SETTLE_SECONDS)
        if (after := _answers(system)) < before:
            raise Broken(f"{before - after} of {before} logged answers are gone")

    where = "ahead" if by == _AHEAD else "back"
    return Fault(f"clock-{where}", f"the gateway's clock jumps by {by}", cause, prepare=_fake_clock)


def _answers(system: System) -> int:
    with closing(sqlite3.connect(f"{system.answers_file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])


FAULTS = (_jump(_AHEAD), _jump(_BACK))
