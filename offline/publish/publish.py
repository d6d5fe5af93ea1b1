"""From folders of artefacts to a published bundle, and back to the one before it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from offline.steps.workspace import OWN_FILES
from recsys import __version__
from recsys.bundle import FORMAT_VERSION, BundleStore, FileEntry, IndexFacts, Manifest, Release, ServingPolicy
from recsys.bundle.manifest import MANIFEST_FILE
from recsys.bundle.store import fsync_folder, sha256_of
from recsys.channels import CHANNELS
from recsys.errors import BundleDamaged, BundleError, BundleMissing

log = logging.getLogger(__name__)

ROLE_FOLDERS: Mapping[str, tuple[str, ...]] = {
    **{name: spec.role_folders for name, spec in CHANNELS.items()},
    "rank": ("catalogue", "rank"),
    "gateway": ("catalogue", "gateway"),
}
"""Which folders of a bundle a process reads, by role. Its golden requests come on top.

A bundle has the roles that it has files for.
"""

REPORT_FOLDER = "report"
"""Evaluation tables and other files for people; no process reads them."""

INDEX_FILE = f"{REPORT_FOLDER}/index.json"
"""Of a bundle that was indexed, not trained: which one it was before, and which items came in."""


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What the manifest has besides its files; see `Manifest` for each field."""

    purpose: str
    dataset: str
    cutoff: int
    events_watermarks: Mapping[str, int]
    policy: ServingPolicy
    feature_names: tuple[str, ...]
    index: IndexFacts | None
    metrics: Mapping[str, float]
    sampled: tuple[str, ...] = ()


def publish(
    store: BundleStore,
    parts: Sequence[Path],
    facts: BundleFacts,
    *,
    golden: Callable[[Path], None],
    keep: int = 5,
) -> str:
    """Makes a bundle of `parts` and releases it; returns its version.

    The union of the parts is written under a hidden name, `golden(folder)` records expected answers per role into it,
    then everything is hashed, fsynced, renamed and released in one rename. A bundle with the content of the current
    one is not published again while that one is whole.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    with _lock(store.root):
        for killed in store.root.glob(".staging-*"):
            shutil.rmtree(killed)
        staging = store.root / f".staging-{os.getpid()}"
        try:
            for part in parts:
                shutil.copytree(part, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*OWN_FILES))
            golden(staging)
            version = _complete(store, staging, facts)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        _prune(store, keep)
    return version


def rollback(store: BundleStore) -> Release:
    """Releases the version before the current one again; the two swap.

    Raises:
        BundleMissing: there is no version to go back to, or it is not on disk any more.
    """
    with _lock(store.root):
        release = store.release()
        if release.previous is None:
            raise BundleMissing(f"{store.root}: {release.current} is the first bundle, there is none to roll back to")
        store.open(release.previous)
        swapped = Release(release.previous, release.current)
        store.write_release(swapped)
    log.info("rolled back from %s to %s", swapped.previous, swapped.current)
    return swapped


def _complete(store: BundleStore, staging: Path, facts: BundleFacts) -> str:
    files = {path: _entry(staging / path) for path in _relative_files(staging)}
    served = {path: entry for path, entry in files.items() if not path.startswith(f"{REPORT_FOLDER}/")}
    content = hashlib.sha256("".join(f"{path}{entry.sha256}" for path, entry in served.items()).encode())
    watermarks = json.dumps(dict(facts.events_watermarks), sort_keys=True)
    content.update(f"{facts.policy.model_dump_json()} {facts.cutoff} {watermarks}".encode())
    digest, current = content.hexdigest()[:12], _current(store)
    if current is not None and current.endswith(digest) and _is_whole(store, current):
        log.info("bundle %s has this very content; nothing to publish", current)
        return current
    now = datetime.now(UTC)
    version = f"{now:%Y%m%d-%H%M%S}-{digest}"
    manifest = _manifest(facts, files, version=version, created=now.isoformat(timespec="seconds"))
    (staging / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _let_others_read(staging)
    _fsync_tree(staging)
    staging.rename(store.root / version)
    fsync_folder(store.root)
    store.write_release(Release(version, current))
    log.info("published %s bundle %s below %s", facts.purpose, version, store.root)
    return version


def _manifest(facts: BundleFacts, files: dict[str, FileEntry], *, version: str, created: str) -> Manifest:
    return Manifest.model_validate(
        {
            "format_version": FORMAT_VERSION,
            "bundle_version": version,
            "purpose": facts.purpose,
            "dataset": facts.dataset,
            "cutoff": facts.cutoff,
            "events_watermarks": dict(facts.events_watermarks),
            "created": created,
            "software_version": __version__,
            "feature_names": facts.feature_names,
            "index": facts.index,
            "policy": facts.policy,
            "roles": {role: _role_files(role, files) for role in _roles(files)},
            "files": files,
            "metrics": dict(facts.metrics),
            "sampled": facts.sampled,
        }
    )


def _roles(files: Mapping[str, FileEntry]) -> tuple[str, ...]:
    folders = {path.partition("/")[0] for path in files}
    return tuple(role for role in ROLE_FOLDERS if role in folders)


def _role_files(role: str, files: Mapping[str, FileEntry]) -> tuple[str, ...]:
    wanted = (*(f"{folder}/" for folder in ROLE_FOLDERS[role]), f"golden/{role}.json")
    return tuple(path for path in files if path.startswith(wanted))


def _relative_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)


def _current(store: BundleStore) -> str | None:
    try:
        return store.release().current
    except BundleMissing:
        return None
    except BundleDamaged as error:
        log.warning("%s; this one is published as the first", error)
        return None


def _is_whole(store: BundleStore, version: str) -> bool:
    """Whether servers can still load it: one that is damaged or gone is worth publishing again."""
    try:
        bundle = store.open(version)
        for role in bundle.manifest.roles:
            bundle.verify(role)
    except BundleError as error:
        log.warning("%s; publishing it again", error)
        return False
    return True


def _let_others_read(folder: Path) -> None:
    """Servers may run as another user; the folders that parts came from may have been private."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _fsync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    fsync_folder(folder)


def _prune(store: BundleStore, keep: int) -> None:
    """Removes the oldest bundles beyond `keep`, never the released one or the one before it."""
    release = store.release()
    removable = [version for version in store.versions() if version not in (release.current, release.previous)]
    for version in removable[: max(0, len(removable) + 2 - keep)]:
        log.info("removing bundle %s: more than %d are kept", version, keep)
        shutil.rmtree(store.root / version)


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """One publisher at a time, also across processes."""
    if not root.is_dir():
        raise BundleMissing(f"{root}: no bundle was ever published here; run `python -m offline run`")
    with (root / ".lock").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
