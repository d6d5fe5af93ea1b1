"""Arrays and strings that are mapped."""

from __future__ import annotations

from mmap import mmap
from pathlib import Path

import numpy as np
import pytest

from recsys.arrays import Strings, open_array, string_files
from recsys.errors import BundleDamaged


def test_an_array_is_mapped_and_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    found = open_array(tmp_path / "a.npy")
    assert found.tolist() == [0, 1, 2]
    assert type(found) is np.ndarray
    assert not found.flags.writeable
    mapping = found.base
    while isinstance(mapping, np.ndarray):
        mapping = mapping.base
    assert isinstance(mapping, mmap)


@pytest.mark.parametrize("content", [None, b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_what_is_no_array_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(BundleDamaged, match=r"a\.npy: unreadable"):
        open_array(tmp_path / "a.npy")


@pytest.mark.parametrize("values", [[], [""], ["a", "", "ü, 映画", "b\x00"]])
def test_strings_come_back(tmp_path: Path, values: list[str]) -> None:
    Strings.of(values).save(tmp_path / "names")
    found = Strings.open(tmp_path / "names")
    assert (list(found), len(found)) == (values, len(values))
    assert [found[np.int64(i)] for i in range(len(values))] == values
    with pytest.raises(IndexError):
        found[len(values)]


@pytest.mark.parametrize("damage", [np.asarray([0, 5], np.int64), np.asarray([0, 3], np.int32), np.empty(0, np.int64)])
def test_strings_that_do_not_fit_their_starts_are_refused(tmp_path: Path, damage: np.ndarray) -> None:
    Strings.of(["abc"]).save(tmp_path / "names")
    np.save(tmp_path / string_files("names")[0], damage)
    with pytest.raises(BundleDamaged, match="names: "):
        Strings.open(tmp_path / "names")
