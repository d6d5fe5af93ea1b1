"""Random and mutated messages to every rpc and port of a running system: `python -m tests.fuzz`, or `make fuzz`.

Deterministic: message N of a seed is always the same. A run that was interrupted continues with the same --state. The
exit code is 1 if a call ended UNKNOWN or INTERNAL or not at all, a process died, wrote a traceback or grew, or an
acknowledged event was lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from offline.metrics.text_table import aligned
from tests.faults.bundles import bundles
from tests.faults.system import Setup, running
from tests.fuzz.ports import methods
from tests.fuzz.run import fuzz, summary

MESSAGES = 1_000_000
_AT_ONCE = 50_000
"""Messages after which everything is checked, and the state is saved."""


def main() -> int:
    """0 if nothing was found."""
    options = _parse()
    first, last = _numbers(options)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", flush=True)

    with bundles(options.bundle_root) as (root, folder):
        setup = Setup(root.absolute(), folder / "run", settings={"log-level": "WARNING"})
        setup.folder.mkdir()
        with running(setup) as system:
            while first < last:
                numbers = range(first, min(first + _AT_ONCE, last))
                found = fuzz(system, numbers, options.seed, say=say)
                print("\n".join(aligned(summary(found, methods(system)))))
                if found.problems:
                    return _complain(found.problems, options.seed)
                first = numbers.stop
                if options.state and options.only is None:
                    options.state.write_text(json.dumps({"seed": options.seed, "next": first}), encoding="utf-8")
    say("nothing was found")
    return 0


def _complain(problems: list[str], seed: int) -> int:
    print("\n".join(f"FOUND {problem}" for problem in problems))
    print(f'one message again: make fuzz ARGS="--seed {seed} --only NUMBER"')
    return 1


def _numbers(options: argparse.Namespace) -> tuple[int, int]:
    if options.only is not None:
        return options.only, options.only + 1
    if options.state and options.state.exists():
        state = json.loads(options.state.read_text(encoding="utf-8"))
        if state["seed"] == options.seed:
            return state["next"], options.messages
    return 0, options.messages


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="how many in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="send this message alone")
    parser.add_argument("--state", type=Path, help="file that says where to continue")
    parser.add_argument("--bundle-root", type=Path, help="published bundles to serve; default: a small one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
