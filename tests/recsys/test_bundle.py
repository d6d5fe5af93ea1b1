from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundle import FORMAT_VERSION, BundleStore, Manifest, Release
from recsys.bundle.manifest import MANIFEST_FILE
from recsys.errors import BundleDamaged, BundleError, BundleMismatch, BundleMissing
from recsys.testing import ROLES, release, write_bundle
from tests.published import TRAINERS, publish_checkerboard


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    write_bundle(tmp_path, "v1")
    return BundleStore(tmp_path)


def edit_manifest(store: BundleStore, **fields: Any) -> None:
    path = store.root / "v1" / MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_an_opened_bundle_knows_its_version_and_verifies_for_each_role(store: BundleStore) -> None:
    bundle = store.open("v1")
    assert (bundle.version, bundle.manifest.dataset, bundle.manifest.format_version) == ("v1", "toy", FORMAT_VERSION)
    for role in ROLES:
        bundle.verify(role)
    assert bundle.path("rank/scale.npy").is_file()
    assert (bundle.has("rank/scale.npy"), bundle.has("rank/other.npy")) == (True, False)


def test_only_listed_files_can_be_opened(store: BundleStore) -> None:
    (store.root / "v1" / "stray.npy").touch()
    for name in ("stray.npy", "../CURRENT", MANIFEST_FILE):
        with pytest.raises(BundleMismatch, match="the manifest lists no"):
            store.open("v1").path(name)


def test_a_role_hashes_its_own_files_only(store: BundleStore) -> None:
    (store.root / "v1" / "rank" / "scale.npy").write_bytes(b"broken")
    store.open("v1").verify("popularity")
    with pytest.raises(BundleDamaged, match=r"rank/scale\.npy: 6 bytes, but the manifest says 136"):
        store.open("v1").verify("rank")


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "bytes":
        path.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "bytes", "sha256"])
def test_a_damaged_file_is_named_with_what_was_found_and_the_way_out(store: BundleStore, how: str) -> None:
    path = store.root / "v1" / "catalogue" / "years.npy"
    damaged(path, how)
    with pytest.raises(BundleDamaged, match=f"{how}.*(rollback|roll back)") as caught:
        store.open("v1").verify("vector")
    assert str(path) in str(caught.value)


def test_an_unknown_role_is_refused_with_the_known_ones(store: BundleStore) -> None:
    with pytest.raises(BundleMismatch, match="no files for role 'magic', only for itemcf, popularity, rank, vector"):
        store.open("v1").verify("magic")


@pytest.mark.parametrize("found", [0, FORMAT_VERSION + 1, None, "1"])
def test_another_format_version_is_named_before_anything_else(store: BundleStore, found: object) -> None:
    edit_manifest(store, format_version=found, from_the_future={"x": 1})
    with pytest.raises(
        BundleMismatch, match=rf"bundle format {found}, but this software reads format {FORMAT_VERSION}"
    ):
        store.open("v1")


def test_unknown_keys_of_a_manifest_are_refused(store: BundleStore) -> None:
    edit_manifest(store, extra=1)
    with pytest.raises(BundleDamaged, match=r"manifest\.json: extra: Extra inputs are not permitted"):
        store.open("v1")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format_version": 1}'])
def test_half_a_manifest_is_refused(store: BundleStore, text: str) -> None:
    (store.root / "v1" / MANIFEST_FILE).write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        store.open("v1")


def test_a_manifest_that_is_no_text_is_refused(store: BundleStore) -> None:
    (store.root / "v1" / MANIFEST_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleDamaged, match="unreadable"):
        store.open("v1")


def test_a_renamed_bundle_is_refused(store: BundleStore) -> None:
    (store.root / "v1").rename(store.root / "v2")
    with pytest.raises(BundleMismatch, match="the manifest of v1, in the folder of v2"):
        store.open("v2")


def test_a_version_that_is_not_there_is_named_with_those_that_are(store: BundleStore) -> None:
    with pytest.raises(BundleMissing, match="no bundle v7 on disk, only v1"):
        store.open("v7")


@pytest.mark.parametrize("version", ["", "..", "../v1", "a/b", ".v1", "v" * 129, "v 1", "v1\n"])
def test_a_version_name_cannot_leave_the_root(store: BundleStore, version: str) -> None:
    with pytest.raises(BundleMissing):
        store.open(version)


def test_half_written_versions_are_not_listed(store: BundleStore) -> None:
    write_bundle(store.root, "v0")
    (store.root / "v0").rename(store.root / ".staging-7")
    (store.root / "v9").mkdir()
    assert store.versions() == ["v1"]
    assert BundleStore(store.root / "absent").versions() == []


def test_a_release_is_read_as_it_was_written_and_leaves_no_other_file(store: BundleStore) -> None:
    for written in (Release("v1", None), Release("v2", "v1")):
        store.write_release(written)
        assert store.release() == written
    assert sorted(path.name for path in store.root.iterdir()) == ["CURRENT", "v1"]


def test_without_a_release_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match=r"CURRENT: no bundle was published here; run `python -m offline run`"):
        BundleStore(tmp_path).release()


@pytest.mark.parametrize("text", ["", "v1", "{}", '{"current": "v1"}', "[]", '{"current": 1, "previous": null}'])
def test_a_broken_release_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "CURRENT").write_text(text)
    with pytest.raises(BundleError, match=r"CURRENT|bundle version"):
        BundleStore(tmp_path).release()


def test_a_manifest_survives_json(store: BundleStore) -> None:
    manifest = store.open("v1").manifest
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_the_toy_release_is_a_release(store: BundleStore) -> None:
    release(store.root, "v1")
    assert store.release() == Release("v1", None)


SUFFIXES = {".json", ".npy", ".npz", ".onnx", ".parquet", ".hnsw"}
"""Of files that are data alone: to read one runs no code that is in it."""


def test_a_published_bundle_holds_data_and_no_pickle(tmp_path: Path) -> None:
    version = publish_checkerboard(tmp_path, channels=tuple(TRAINERS))
    bundle = BundleStore(tmp_path).open(version)
    files = [path for path in bundle.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == SUFFIXES
    assert {path.relative_to(bundle.folder).as_posix() for path in files} == {*bundle.manifest.files, MANIFEST_FILE}
    for path in files:
        if path.suffix == ".npy":
            assert np.load(path, allow_pickle=False).dtype != np.object_
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert all(array.dtype != np.object_ for array in arrays.values())
