"""Ten thousand messages to every rpc and port find nothing, and a message is the same whenever it is made."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from recsys.v1.recommend_pb2 import RecommendRequest
from tests.faults.system import Setup, running
from tests.fuzz.messages import MUTATIONS, message_of, mutated
from tests.fuzz.run import fuzz

MESSAGES = 10_000


@pytest.mark.integration
@pytest.mark.alone
def test_nothing_is_found(checkerboard_store: Path, tmp_path: Path) -> None:
    setup = Setup(checkerboard_store, tmp_path, settings={"log-level": "WARNING"})
    with running(setup) as system:
        found = fuzz(system, range(MESSAGES), seed=1, say=print)
    assert found.problems == [], "\n".join(found.problems)
    assert found.sent == MESSAGES
    assert len(found.acknowledged) > 100, "events were recorded"


def test_a_number_is_always_the_same_message() -> None:
    first, second = (message_of(RecommendRequest, random.Random(7), [1, 2]) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert mutated(b"abcdef" * 9, random.Random(7)) == mutated(b"abcdef" * 9, random.Random(7))


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_changes_the_bytes(mutation: object) -> None:
    body = message_of(RecommendRequest, random.Random(3)).SerializeToString() or b"\x18\x0a"
    changes = []
    for seed in range(20):
        changed = bytearray(body)
        mutation(changed, random.Random(seed))  # type: ignore[operator]
        changes.append(bytes(changed) != body)
    assert any(changes)
