"""`python -m gateway`, and the console script of the same process."""

from __future__ import annotations

import sys

from recsys.server.threads import limit_threads


def main() -> int:
    """The process from its limits to its exit code."""
    limit_threads()
    from gateway.main import main as run  # imports numpy, which reads the limits at that moment

    return run()


if __name__ == "__main__":
    sys.exit(main())
