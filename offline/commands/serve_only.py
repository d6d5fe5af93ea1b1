"""What `offline serve` becomes once everything is prepared: the servers' owner, without anything that training needs.

    python -m offline.commands.serve_only --bundles FOLDER --events FOLDER --logs FOLDER

Imports are part of what it does: it lives for as long as the servers do.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from offline.commands.exits import exit_codes, log_to_terminal
from offline.local.ports import Scale
from offline.local.serve import serve_until_interrupted
from recsys.bundle import BundleStore

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def become(bundles: Path, events: Path, logs: Path, *, port_offset: int, scale: Scale) -> NoReturn:
    """Replaces this program by that one, under the same process id. Signals wait until the new one handles them.

    Raises:
        OSError: that did not work.
    """
    flags = {
        "--bundles": str(bundles.absolute()),
        "--events": str(events.absolute()),
        "--logs": str(logs.absolute()),
        "--port-offset": str(port_offset),
        "--workers": _numbers_to_text(scale.workers),
        "--threads": _numbers_to_text(scale.threads),
    }
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    sys.stdout.flush()
    sys.stderr.flush()
    words = [part for flag in flags.items() for part in flag]
    os.execv(sys.executable, [sys.executable, "-m", __name__, *words])  # noqa: S606 - our own module


def main() -> None:
    """Serves until SIGINT or SIGTERM; exits with 0, or with 2 after an error that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--bundles", "--events", "--logs"):
        parser.add_argument(flag, type=Path, required=True)
    parser.add_argument("--port-offset", type=int, default=0)
    for flag in ("--workers", "--threads"):
        parser.add_argument(flag, type=_numbers, default={}, help="NAME=NUMBER, separated by commas")
    given = parser.parse_args()
    log_to_terminal()
    with exit_codes():
        serve_until_interrupted(
            BundleStore(given.bundles),
            events_folder=given.events,
            logs=given.logs,
            port_offset=given.port_offset,
            scale=Scale(given.workers, given.threads),
        )


def _numbers_to_text(numbers: Mapping[str, int]) -> str:
    return ",".join(f"{role}={n}" for role, n in numbers.items())


def _numbers(text: str) -> dict[str, int]:
    pairs = (entry.partition("=") for entry in filter(None, text.split(",")))
    return {role: int(n) for role, _, n in pairs}


if __name__ == "__main__":
    main()
