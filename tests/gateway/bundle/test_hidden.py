"""Hidden items: re-read live, and never forgotten by accident."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway.bundle.hidden import HiddenIds, HiddenItems
from gateway.bundle.resolve import EMPTY_IDENTITIES, Identities, KeyTable
from recsys.errors import CannotStart
from recsys.identity import FIRST_ASSIGNED

IDENTITIES = Identities(KeyTable(), KeyTable({"tt1": FIRST_ASSIGNED}))


def test_keys_and_numbers_are_read_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "hidden.txt"
    path.write_text(f"# withdrawn\n3\n\ntt1\n tt2 \n{FIRST_ASSIGNED}\n")
    items = HiddenItems(path)
    hidden = HiddenIds(items, IDENTITIES)
    assert hidden().tolist() == [3, FIRST_ASSIGNED]
    path.write_text("5\n4\n")
    items.refresh()
    assert hidden().tolist() == [4, 5]
    path.write_text("")
    items.refresh()
    assert hidden().tolist() == []


def test_a_broken_line_is_logged_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "hidden.txt"
    path.write_bytes(b"1\n\xff\xfe\n" + b"k" * 300 + b"\n2\n")
    with caplog.at_level(logging.WARNING):
        items = HiddenItems(path)
    assert HiddenIds(items, EMPTY_IDENTITIES)().tolist() == [1, 2]
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [f"{path}:2", f"{path}:3"]


def test_the_last_good_list_stays_when_the_file_goes_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "hidden.txt"
    path.write_text("1\n")
    items = HiddenItems(path)
    path.unlink()
    with caplog.at_level(logging.WARNING):
        items.refresh()
        items.refresh()
    assert items.keys == ("1",)
    assert len(caplog.records) == 1
    path.write_text("2\n")
    items.refresh()
    assert items.keys == ("2",)


def test_a_list_that_is_cut_stays_in_force_until_the_file_has_stayed_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, now = tmp_path / "hidden.txt", [0.0]
    keys = tuple(str(number) for number in range(10))
    path.write_text("\n".join(keys))
    items = HiddenItems(path, 60.0, lambda: now[0])

    def after(seconds: float) -> tuple[str, ...]:
        now[0] += seconds
        items.refresh()
        return items.keys

    path.write_text("")
    with caplog.at_level(logging.WARNING):
        assert after(1.0) == after(59.0) == keys
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [f"{path}: 0 hidden items instead of 10"]
    path.write_text("0\n1\n2\n3\n")
    assert after(59.0) == keys, "another version counts from when it was seen"
    path.write_text("0\n1\n2\n3\n4\n")
    assert after(0.0) == keys[:5], "half of it counts at once"
    path.write_text("\n".join(keys))
    assert after(0.0) == keys
    path.write_text("")
    assert after(0.0) == keys
    assert after(60.0) == ()


def test_a_file_that_never_was_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="create it"):
        HiddenItems(tmp_path / "absent.txt")


def test_without_a_file_nothing_is_hidden() -> None:
    items = HiddenItems(None)
    items.refresh()
    assert HiddenIds(items, EMPTY_IDENTITIES)().tolist() == []
