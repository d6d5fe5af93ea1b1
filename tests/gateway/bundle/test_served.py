"""Whose history it is, what of it counts, and which moment a request is answered for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.bundle.resolve import ResolvedId
from gateway.bundle.served import ServedBundle
from gateway.events.store import RecordedEvent
from recsys.catalogue import ItemTexts
from recsys.domain import EventType, History
from recsys.errors import BundleMismatch
from tests.gateway.toy import ADA, CUTOFF, KEYED_ITEM, policy, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> ServedBundle:
    return ServedBundle.load(write_bundle(tmp_path, "v1", policy=policy(), watermarks={"own": 10, "other": 99}), "own")


def recorded(row_id: int, item_key: str, time: int) -> RecordedEvent:
    return RecordedEvent(row_id, item_key, EventType.VIEW, None, time)


def test_the_same_user_by_number_and_by_key(bundle: ServedBundle) -> None:
    assert bundle.user(4, None) == bundle.user(None, "4") == ResolvedId("4", 4)
    assert bundle.user(ADA, None) == bundle.user(None, "ada") == ResolvedId("ada", ADA)
    assert bundle.user(None, "unheard-of") == ResolvedId("unheard-of", None)
    assert bundle.user(ADA + 1, None) is None
    assert bundle.user(None, None) is None


def test_stored_and_later_recorded_events_are_one_history(bundle: ServedBundle) -> None:
    events = (recorded(9, "7", 150), recorded(10, "8", 150), recorded(11, "5", 150), recorded(12, "tt12", 2000))
    history = bundle.history(bundle.user(4, None), events)
    assert history.item_ids.tolist() == [1, 5, 2, KEYED_ITEM]
    assert history.timestamps.tolist() == [100, 150, 200, 2000]


def test_a_watermark_of_another_log_hides_nothing(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, "v1", policy=policy(), watermarks={"other": 99})
    events = (recorded(1, "7", 150), recorded(2, "8", 151))
    history = ServedBundle.load(bundle, "own").history(ResolvedId("4", 4), events)
    assert history.item_ids.tolist() == [1, 7, 8, 2]
    assert ServedBundle.load(bundle, "other").history(ResolvedId("4", 4), events).item_ids.tolist() == [1, 2]


def test_items_that_the_bundle_does_not_know_stay_out(bundle: ServedBundle) -> None:
    history = bundle.history(bundle.user(4, None), (recorded(11, "999", 300), recorded(12, "tt99", 301)))
    assert history.item_ids.tolist() == [1, 2]


def test_a_user_without_a_number_has_recorded_events_only(bundle: ServedBundle) -> None:
    history = bundle.history(bundle.user(None, "unheard-of"), (recorded(12, "6", 30), recorded(13, "5", 20)))
    assert history.item_ids.tolist() == [5, 6]
    assert len(bundle.history(None, ())) == 0


def test_values_come_through_and_absent_ones_are_nan(bundle: ServedBundle) -> None:
    rating = RecordedEvent(11, "5", EventType.RATING, 3.5, 50)
    history = bundle.history(None, (rating, recorded(12, "6", 60)))
    assert history.values.tolist()[0] == 3.5
    assert history.values[1] != history.values[1]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("catalogue/titles_starts.npy", None, "12 items, but 1 titles"),
        ("gateway/popular_item_ids.npy", [1, 99], "gateway/popular_item_ids.npy: 1 items are not in the catalogue"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(
    tmp_path: Path, name: str, content: list[int] | None, complaint: str
) -> None:
    bundle = write_bundle(tmp_path, "v1", policy=policy())
    ServedBundle.load(bundle, "")
    if content is None:
        ItemTexts.of(["1"], ["One"]).save(bundle.folder)
    else:
        np.save(bundle.folder / name, np.asarray(content, np.int64))
    with pytest.raises(BundleMismatch, match=complaint):
        ServedBundle.load(bundle, "")


@pytest.mark.parametrize("now", [0, 5_000, 10**9])
def test_the_cutoff_clock_does_not_know_the_wall(bundle: ServedBundle, now: int) -> None:
    assert bundle.as_of(History.empty(), now) == CUTOFF
    assert bundle.as_of(History.of([1], [10]), now) == CUTOFF
    assert bundle.as_of(History.of([1, 2], [10, 2000]), now) == 2000


def test_the_wall_clock_is_now(tmp_path: Path) -> None:
    bundle = ServedBundle.load(write_bundle(tmp_path, "v1", policy=policy(clock="wall")), "")
    assert bundle.as_of(History.of([1], [10]), 5_000) == 5_000
