"""A published bundle is one that a container's user can read."""

from __future__ import annotations

from pathlib import Path

from recsys.bundle import BundleStore


def test_a_bundle_made_of_private_folders_is_readable_to_all(checkerboard_store: Path) -> None:
    store = BundleStore(checkerboard_store)
    folder = store.open(store.release().current).folder
    modes = {path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*")) if path.is_dir()}
    assert modes == {0o755}
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o644}
