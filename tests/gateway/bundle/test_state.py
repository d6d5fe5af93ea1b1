"""The gateway's own files come back as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.bundle import state
from gateway.bundle.state import StoredHistories, read_users, write_gateway_files
from recsys.domain import EventType
from recsys.errors import BundleDamaged
from recsys.identity import FIRST_ASSIGNED


def toy_histories() -> StoredHistories:
    return StoredHistories(
        np.asarray([4, 9], np.int64),
        np.asarray([0, 2, 3], np.int64),
        np.asarray([10, 11, 12], np.int64),
        np.asarray([100, 200, 300], np.int64),
        np.asarray([EventType.RATING, EventType.VIEW, EventType.DISLIKE], np.int8),
        np.asarray([4.5, np.nan, np.nan], np.float32),
    )


def test_all_files_come_back(tmp_path: Path) -> None:
    users = {"ada": FIRST_ASSIGNED, "grace": FIRST_ASSIGNED + 1}
    write_gateway_files(tmp_path, histories=toy_histories(), user_keys=users, popular_item_ids=np.asarray([11, 10]))
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {name for name in state.FILES if name.startswith("gateway/")}
    assert read_users(tmp_path) == users
    history = StoredHistories.open(tmp_path).of(4)
    assert history.item_ids.tolist() == [10, 11]
    assert history.timestamps.tolist() == [100, 200]
    assert history.types.tolist() == [EventType.RATING, EventType.VIEW]
    assert history.values[0] == 4.5
    assert np.isnan(history.values[1])


@pytest.mark.parametrize("user_id", [0, 5, 10])
def test_an_unknown_user_has_no_history(tmp_path: Path, user_id: int) -> None:
    toy_histories().save(tmp_path)
    assert len(StoredHistories.open(tmp_path).of(user_id)) == 0


def test_a_bundle_without_users_opens(tmp_path: Path) -> None:
    none = np.empty(0, np.int64)
    empty = StoredHistories(none, np.zeros(1, np.int64), none, none, none.astype(np.int8), none.astype(np.float32))
    empty.save(tmp_path)
    assert len(StoredHistories.open(tmp_path).of(1)) == 0


def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    toy_histories().save(tmp_path)
    np.save(tmp_path / state.HISTORIES_FOLDER / "values.npy", np.zeros(2, np.float32))
    with pytest.raises(BundleDamaged, match=r"2 users, 3 offsets and \[2, 3\] events"):
        StoredHistories.open(tmp_path)
