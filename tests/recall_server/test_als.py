"""The ALS channel: contract, the fold-in of implicit, an event that counts at once, and files that do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array, csr_matrix
from threadpoolctl import threadpool_limits

from offline.recall.als import ALSConfig, fit, item_factors, train
from offline.recall.interaction_matrix import interaction_matrix
from recall_server.channels.als import FACTORS_FILE, FACTS_FILE, GRAM_FILE, ALSChannel
from recall_server.channels.base import Channel
from recall_server.channels.evidence import ValueScale
from recsys.domain import EventType, History, RecallQuery, RecallResult
from recsys.errors import BundleDamaged, BundleMismatch
from tests.recall_server.conformance import DAY, NOW, ChannelConformance, history_of
from tests.recall_server.toy import Event, checkerboard, snapshot_of

HEAVY, TOO_HEAVY = 40.0, 1e5
"""Regularisation that leaves popularity, and one that leaves rounding."""
PLAIN = ALSConfig(
    factors=3, reg=0.1, confidence=4, training_value_floor=1, history_value_floor=1, half_life_days=None, threads=1
)


def opened(folder: Path, config: ALSConfig = PLAIN) -> ALSChannel:
    """Trained on the checkerboard of 12 users and 16 items."""
    snapshot = checkerboard(12, 16)
    snapshot.catalogue.save(folder)
    train(snapshot, config, folder)
    return ALSChannel.open(folder)


def ask(channel: Channel, history: History, count: int = 100) -> RecallResult:
    """The answer to one history."""
    [result] = channel.recall([RecallQuery(history, NOW, count)])
    return result


class TestALSConformance(ChannelConformance):
    needs_history = True

    @pytest.fixture
    def channel(self, tmp_path: Path) -> Channel:
        return opened(tmp_path, ALSConfig(factors=4, reg=0.1, threads=1))


def test_the_missing_items_of_the_checkerboard_come_first(tmp_path: Path) -> None:
    found = ask(opened(tmp_path), history_of([1, 3, 5, 7]), count=16)
    assert sorted(found.item_ids[:8].tolist()) == list(range(1, 16, 2))
    assert found.scores[7] > 0.5 > found.scores[8]


def test_a_user_is_solved_for_as_implicit_does(tmp_path: Path) -> None:
    channel = opened(tmp_path)
    snapshot = checkerboard(12, 16)
    matrix = interaction_matrix(snapshot, ValueScale(low=0, high=0, floor=1))
    with threadpool_limits(1, user_api="blas"):
        model = fit(matrix, PLAIN)
        expected = model.recalculate_user(0, csr_matrix(matrix)[[0]])
    assert_allclose(channel.vectors, model.item_factors, rtol=1e-6)
    assert_allclose(channel.user_vector(snapshot.history(0)), np.asarray(expected).ravel(), rtol=1e-4, atol=1e-5)


def test_an_event_changes_the_next_answer(tmp_path: Path) -> None:
    channel = opened(tmp_path)
    before, after = ask(channel, history_of([1])), ask(channel, history_of([1, 2]))
    even = np.isin(after.item_ids, np.arange(4, 17, 2))
    score = dict(zip(before.item_ids.tolist(), before.scores.tolist(), strict=True))
    assert all(after.scores[i] > score[int(after.item_ids[i])] for i in np.flatnonzero(even))


def test_seeds_are_the_largest_terms_of_the_score(tmp_path: Path) -> None:
    channel = opened(tmp_path)
    history = history_of([1, 2])
    past, influence = channel.influence(history)
    found = ask(channel, history)
    terms = channel.vectors[channel.catalogue.rows(found.item_ids)] @ influence
    assert_allclose(terms.sum(axis=1), found.scores, rtol=1e-5)
    assert found.seed_item_ids is not None
    assert found.seed_present is not None
    assert found.seed_item_ids[found.seed_present].tolist() == [
        int(channel.catalogue.item_ids[past[row.argmax()]]) for row in terms[found.seed_present]
    ]
    assert dict(zip(found.item_ids.tolist(), found.seed_item_ids.tolist(), strict=True))[1] == 1


def test_older_and_worse_rated_events_count_less(tmp_path: Path) -> None:
    config = PLAIN.model_copy(update={"half_life_days": 10.0, "history_value_floor": 0.2})
    snapshot = snapshot_of(
        [(u, i, 5.0, float(1 + (u + i) % 5)) for u in range(6) for i in (1, 2, 3)], {1: "", 2: "", 3: ""}
    )
    snapshot.catalogue.save(tmp_path)
    train(snapshot, config, tmp_path)
    channel = ALSChannel.open(tmp_path)
    scores = [
        ask(channel, History.of([1, 2], [NOW - age * DAY, NOW], values=[value, 5.0])).scores.sum()
        for age, value in ((0, 5.0), (0, 1.0), (10, 1.0), (100, 1.0))
    ]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_items_nobody_took_are_unknown_and_an_event_without_weight_counts_nothing(tmp_path: Path) -> None:
    events: list[Event] = [(user, item, 1.0) for user in range(4) for item in (1, 2)]
    snapshot = snapshot_of(events, {1: "", 2: "", 3: ""})
    snapshot.catalogue.save(tmp_path)
    train(snapshot, PLAIN, tmp_path)
    channel = ALSChannel.open(tmp_path)
    assert sorted(ask(channel, history_of([1])).item_ids.tolist()) == [1, 2]
    assert len(ask(channel, history_of([3]))) == 0
    assert len(ask(channel, History.of([1], [NOW], types=[EventType.IMPRESSION]))) == 0


BY_THREADS = """
import hashlib, sys
from tests.recall_server.test_als import PLAIN, checkerboard_matrix, item_factors
config = PLAIN.model_copy(update={"threads": int(sys.argv[1])})
print(hashlib.sha256(item_factors(checkerboard_matrix(), config).tobytes()).hexdigest())
"""


def checkerboard_matrix() -> csr_array:
    return interaction_matrix(checkerboard(30, 20), ValueScale(low=0, high=0, floor=1))


def test_the_outcome_is_the_same_for_any_number_of_threads() -> None:
    """In processes of their own, since `make test` limits the threads of those of the tests, also those of BLAS."""

    def digest(threads: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
        environment["OMP_THREAD_LIMIT"] = "2"
        # implicit warns where BLAS has threads of its own
        command = [sys.executable, "-W", "error::RuntimeWarning", "-c", BY_THREADS, threads]
        return subprocess.run(
            command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert digest("1") == digest("2")


def test_a_world_without_events_trains() -> None:
    assert not item_factors(checkerboard_matrix()[:0], PLAIN).any()


@pytest.mark.parametrize(
    ("file", "array"),
    [(FACTORS_FILE, np.zeros((16, 4), np.float32)), (GRAM_FILE, np.zeros((3, 3), np.float32))],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, file: str, array: np.ndarray) -> None:
    opened(tmp_path)
    np.save(tmp_path / file, array)
    with pytest.raises(BundleMismatch, match=rf"{file}.*to fit {FACTS_FILE}; train and publish again"):
        ALSChannel.open(tmp_path)


def test_damaged_and_foreign_facts_are_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    text = (tmp_path / FACTS_FILE).read_text()
    (tmp_path / FACTS_FILE).write_text(text.replace('"items": 16', '"items": 15'))
    with pytest.raises(BundleMismatch, match="15 items, the catalogue has 16"):
        ALSChannel.open(tmp_path)
    (tmp_path / FACTS_FILE).write_text("{")
    with pytest.raises(BundleDamaged, match="train and publish again"):
        ALSChannel.open(tmp_path)


def test_a_regularisation_that_leaves_only_popularity_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All users have the first four items; otherwise there are two tastes, which heavy regularisation erases."""
    taken = [(user, item) for user in range(40) for item in (1, 2, 3, 4, *range(5 + user % 2, 13, 2))]
    snapshot = snapshot_of([(user, item, 1.0) for user, item in taken], dict.fromkeys(range(1, 13), "Any"))
    snapshot.catalogue.save(tmp_path)

    def lists(reg: float) -> set[tuple[int, ...]]:
        train(snapshot, PLAIN.model_copy(update={"reg": reg, "iterations": 100}), tmp_path)
        channel = ALSChannel.open(tmp_path)
        return {tuple(ask(channel, history_of(history)).item_ids.tolist()) for history in ([1, 5, 7], [1, 6, 8])}

    assert len(lists(1.0)) == 2
    assert not caplog.messages
    assert len(lists(HEAVY)) == 1
    lists(TOO_HEAVY)
    assert [message.partition(", so")[0] for message in caplog.messages] == [
        f"als: --als.reg {reg:g} leaves nothing of 12 items that tells users apart" for reg in (HEAVY, TOO_HEAVY)
    ]
