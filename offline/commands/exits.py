"""How the programs of `offline` log and end: lines on stderr, one of them for an error, and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from recsys.errors import RecsysError


def log_to_terminal() -> None:
    """Logs go to stderr, with the time of day."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Ends the program with 2 after an error that is named, with 130 after Ctrl-C."""
    try:
        yield
    except RecsysError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error}; check that the folder exists, is writable and has space left")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; finished steps are kept, run the same command again to continue\n")
        sys.exit(130)


def fail(message: str) -> NoReturn:
    """Ends the program with one line and code 2."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
