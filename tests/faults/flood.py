"""Far more requests than can be answered, from a process of its own: the open loop of the race."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.load import DEADLINE
from tests.faults.system import ROOT, System

_PATH = "/recsys.v1.RecommendationService/Recommend"
_GOOD = ("ok", "degraded")
"""The open loop compares bodies, and has none to compare with: every answer is another one than it expects."""
_USERS = 500


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of some seconds at some rate."""

    rate: float
    goodput: float
    """Answers per second that came within a caller's deadline."""
    outcomes: dict[str, int]


def send(system: System, rates: Sequence[float], seconds: float) -> list[Answers]:
    """`seconds` at each rate in turn."""
    users = system.users[:_USERS]
    headers = {
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": f"{round(DEADLINE * 1e3)}m",
    }
    bodies = [system.request(number).SerializeToString() for number in range(len(users))]
    plan = {
        "address": system.target,
        "grpc": True,
        "wires": [{"path": _PATH, "headers": headers, "body": _framed(body).hex(), "expected": ""} for body in bodies],
        "phases": [{"rate": rate, "seconds": seconds} for rate in rates],
        "deadline": DEADLINE,
        "seed": 1,
    }
    done = subprocess.run(
        [sys.executable, "-m", "race.open_loop"],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        timeout=len(rates) * seconds + 60,
    )
    result = json.loads(done.stdout)
    counted: list[Counter[str]] = [Counter() for _ in rates]
    for due, outcome in zip(result["due"], result["outcome"], strict=True):
        counted[min(int(due / seconds), len(rates) - 1)][outcome] += 1
    return [
        Answers(rate, sum(outcomes[kind] for kind in _GOOD) / seconds, dict(outcomes))
        for rate, outcomes in zip(rates, counted, strict=True)
    ]


def _framed(body: bytes) -> bytes:
    """A message of gRPC: not compressed, its length, itself."""
    return b"\0" + len(body).to_bytes(4, "big") + body
