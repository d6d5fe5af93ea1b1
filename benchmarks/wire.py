"""What a list costs on its way between two processes, as a repeated field and as packed bytes.

    python benchmarks/wire.py

CPU microseconds per query or result, batches of 16, 200 candidates, three channels: from arrays to the bytes that gRPC
sends, and from these to arrays, checks included. The two forms take turns; medians. The last column is what travels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from google.protobuf.message import Message

from recsys import convert
from recsys.domain import NO_IDS, Candidates, History, RankQuery, RecallQuery, RecallResult
from recsys.v1 import rank_pb2, recall_pb2

BATCH, CANDIDATES, CHANNELS = 16, 200, ("popularity", "itemcf", "vector")
ROUNDS, CALLS = 40, 10
NOW = 1_700_000_000


@dataclass(frozen=True)
class Hop:
    """A batch message, the field that holds its parts, and how one part is written and read."""

    message: type[Message]
    field: str
    write_one: Callable[..., object]
    read_one: Callable[..., object]

    def write(self, parts: Sequence[object], *, packed: bool) -> bytes:
        """From arrays to what gRPC sends."""
        message = self.message()
        for part in parts:
            self.write_one(part, getattr(message, self.field).add(), packed=packed)
        return message.SerializeToString()

    def read(self, wire: bytes) -> list[object]:
        """From what gRPC receives to arrays."""
        return [self.read_one(part) for part in getattr(self.message.FromString(wire), self.field)]


RECALL = Hop(recall_pb2.RecallRequest, "queries", convert.recall_query_to_proto, convert.recall_query_from_proto)
RANK = Hop(rank_pb2.RankRequest, "queries", convert.rank_query_to_proto, convert.rank_query_from_proto)
RECALLED = Hop(recall_pb2.RecallResponse, "results", convert.recall_result_to_proto, convert.recall_result_from_proto)
RANKED = Hop(rank_pb2.RankResponse, "results", convert.rank_result_to_proto, convert.rank_result_from_proto)


def history(rng: np.random.Generator, n: int) -> History:
    """`n` ratings of different items."""
    ids = rng.choice(1_000_000, n, replace=False)
    times = np.sort(rng.integers(NOW - 10**8, NOW, n))
    return History.of(ids, times, values=rng.integers(1, 6, n).astype(np.float32))


def recall_query(rng: np.random.Generator, n: int) -> RecallQuery:
    """A query that excludes what its history has seen."""
    seen = history(rng, n)
    return RecallQuery(seen, NOW, CANDIDATES, seen.seen_item_ids(), user_id=1, exclude_besides_history=NO_IDS)


def rank_query(rng: np.random.Generator, n: int) -> RankQuery:
    """A query for candidates that every channel has returned."""
    shape = (CANDIDATES, len(CHANNELS))
    ids = rng.choice(1_000_000, CANDIDATES, replace=False)
    scores, ranks = rng.random(shape, np.float32), rng.integers(1, 201, shape).astype(np.int32)
    return RankQuery(history(rng, n), NOW, Candidates.without_seeds(ids, CHANNELS, scores, ranks), user_id=1)


def recall_result(rng: np.random.Generator, *, seeds: bool) -> RecallResult:
    """A full list."""
    ids, scores = rng.choice(1_000_000, CANDIDATES, replace=False), -np.sort(-rng.random(CANDIDATES, np.float32))
    return RecallResult(ids, scores, ids[::-1], np.ones(CANDIDATES, np.bool_)) if seeds else RecallResult(ids, scores)


def microseconds(call: Callable[[], object]) -> float:
    """CPU time per query or result."""
    started = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - started) / CALLS / BATCH * 1e6


def compare(name: str, hop: Hop, parts: Sequence[object]) -> None:
    """Prints one row: writing and reading, repeated and packed, and the bytes of either."""
    wires = [hop.write(parts, packed=packed) for packed in (False, True)]
    rounds = [
        [
            microseconds(lambda: hop.write(parts, packed=False)),
            microseconds(lambda: hop.write(parts, packed=True)),
            microseconds(lambda: hop.read(wires[0])),
            microseconds(lambda: hop.read(wires[1])),
        ]
        for _ in range(ROUNDS)
    ]
    times = "".join(f"{median(column):10.1f}" for column in zip(*rounds, strict=True))
    print(f"{name:26}{times}{len(wires[0]) // BATCH:10,}{len(wires[1]) // BATCH:10,}")


def main() -> None:
    """Prints the table."""
    rng = np.random.default_rng(1)
    print(f"{'':26}{'written':>20}{'read':>20}{'bytes':>20}")
    print(f"{'':26}" + f"{'repeated':>10}{'packed':>10}" * 3)
    for n in (20, 200, 2_000):
        compare(f"recall query, {n:,} events", RECALL, [recall_query(rng, n) for _ in range(BATCH)])
        compare(f"rank query, {n:,} events", RANK, [rank_query(rng, n) for _ in range(BATCH)])
    compare("recall result", RECALLED, [recall_result(rng, seeds=False) for _ in range(BATCH)])
    compare("recall result, with seeds", RECALLED, [recall_result(rng, seeds=True) for _ in range(BATCH)])
    compare("rank result", RANKED, [rng.random(CANDIDATES, np.float32) for _ in range(BATCH)])


if __name__ == "__main__":
    main()
