"""A bundle is released whole or not at all, and what was released before can be released again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from offline.publish.publish import ROLE_FOLDERS, BundleFacts, publish, rollback
from offline.steps.workspace import RECEIPT
from recsys import __version__
from recsys.bundle import FORMAT_VERSION, BundleStore, ChannelPolicy, IndexFacts, Release, ServingPolicy
from recsys.bundle.store import RELEASE_FILE
from recsys.errors import BundleDamaged, BundleMismatch, BundleMissing, ContractBroken

POLICY = ServingPolicy(
    channels=(ChannelPolicy(name="popularity", count=10, weight=1.0),),
    rank_count=5,
    ranking="blended",
    serving_clock="cutoff",
)
FACTS = BundleFacts(
    purpose="evaluation",
    dataset="toy",
    cutoff=1_000,
    events_watermarks={"a": 7},
    policy=POLICY,
    feature_names=("age",),
    index=IndexFacts(dim=2, space="ip", count=3),
    metrics={"ranked.warm.ndcg@10": 0.25},
)
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.offline.publish.test_publish import FACTS, publish
from recsys.bundle import BundleStore

def die(folder):
    (folder / "golden").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)

publish(BundleStore(Path(sys.argv[1])), [Path(sys.argv[2])], FACTS, golden=die)
"""


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "bundles")


@pytest.fixture
def parts(tmp_path: Path) -> Callable[..., list[Path]]:
    """Makes two folders as steps leave them: one shared by all roles, one with a folder per role."""

    def write(content: str = "a") -> list[Path]:
        shared, own = tmp_path / f"shared-{content}", tmp_path / f"own-{content}"
        for path in (shared / "catalogue/items", *(own / role / "model" for role in ROLE_FOLDERS)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{path.parent.name} {content}")
        (own / "report").mkdir(exist_ok=True)
        (own / "report/all.md").write_text("figures")
        for folder in (shared, own):
            (folder / RECEIPT).write_text(json.dumps({"name": folder.name}))
        return [shared, own]

    return write


def golden(folder: Path) -> None:
    """What `offline.publish.golden_requests.write_golden` leaves, without models."""
    (folder / "golden").mkdir()
    for role in ROLE_FOLDERS:
        (folder / "golden" / f"{role}.json").write_text("{}")


def _files(store: BundleStore, version: str) -> list[str]:
    folder = store.root / version
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _visible(store: BundleStore) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if not path.name.startswith("."))


def test_a_bundle_is_the_union_of_its_parts_with_golden_requests(
    store: BundleStore, parts: Callable[..., list[Path]]
) -> None:
    version = publish(store, parts(), FACTS, golden=golden)
    assert store.release() == Release(version, None)
    assert _files(store, version) == sorted(
        ["manifest.json", "catalogue/items", "report/all.md"]
        + [f"{role}/model" for role in ROLE_FOLDERS]
        + [f"golden/{role}.json" for role in ROLE_FOLDERS]
    )
    assert (store.root / version / "itemcf/model").read_text() == "itemcf a"


def test_the_manifest_says_what_was_published(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    version = publish(store, parts(), FACTS, golden=golden)
    manifest = store.open(version).manifest
    assert (manifest.format_version, manifest.software_version) == (FORMAT_VERSION, __version__)
    assert (manifest.bundle_version, manifest.purpose, manifest.dataset) == (version, "evaluation", "toy")
    assert (manifest.cutoff, manifest.events_watermarks) == (1_000, {"a": 7})
    assert (manifest.policy, manifest.index, manifest.feature_names) == (POLICY, FACTS.index, ("age",))
    assert manifest.metrics == {"ranked.warm.ndcg@10": 0.25}
    assert version.startswith(manifest.created[:10].replace("-", ""))
    assert manifest.created.endswith("+00:00")
    assert sorted([*manifest.files, "manifest.json"]) == _files(store, version)


def test_each_role_gets_the_catalogue_its_own_files_and_its_golden_requests(
    store: BundleStore, parts: Callable[..., list[Path]]
) -> None:
    bundle = store.open(publish(store, parts(), FACTS, golden=golden))
    assert bundle.manifest.roles == {
        role: tuple(sorted(["catalogue/items", f"{role}/model", f"golden/{role}.json"])) for role in ROLE_FOLDERS
    }
    for role in ROLE_FOLDERS:
        bundle.verify(role)
    (bundle.folder / "vector/model").write_text("vector b")
    with pytest.raises(BundleDamaged, match=r"vector/model: sha256 .* the file was changed"):
        bundle.verify("vector")
    bundle.verify("itemcf")


def test_the_copy_stays_when_the_parts_change(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    folders = parts()
    bundle = store.open(publish(store, folders, FACTS, golden=golden))
    (folders[0] / "catalogue/items").write_text("trained again")
    bundle.verify("gateway")


def test_other_users_may_read_it(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    folders = parts()
    for path in (*folders, *(path for folder in folders for path in folder.rglob("*"))):
        path.chmod(0o700 if path.is_dir() else 0o600)
    version = publish(store, folders, FACTS, golden=golden)
    for path in (store.root / version, *(store.root / version).rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


@dataclass
class Disk:
    """What was fsynced and what was renamed, in order."""

    done: list[tuple[str, os.stat_result | Path]] = field(default_factory=list)

    def calls(self, store: BundleStore) -> list[tuple[str, Path | None]]:
        """Each step with its path; files are known by inode, which a rename keeps. None: a file that is gone."""
        paths = {path.stat().st_ino: path for path in (store.root, *store.root.rglob("*"))}
        return [(what, on if isinstance(on, Path) else paths.get(on.st_ino)) for what, on in self.done]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk, fsync = Disk(), os.fsync

    def fsynced(descriptor: int) -> None:
        disk.done.append(("fsync", os.fstat(descriptor)))
        fsync(descriptor)

    def noting(move: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def moved(source: Any, target: Any) -> None:
            disk.done.append(("rename", Path(target)))
            move(source, target)

        return moved

    monkeypatch.setattr(os, "fsync", fsynced)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, noting(getattr(os, name)))
    return disk


def _unchanged_since(synced: os.stat_result, path: Path) -> bool:
    """Whether nothing was written to a file, no entry was added to a folder, and neither got another mode."""
    now = path.stat()
    return (synced.st_size, synced.st_mtime_ns, synced.st_mode) == (now.st_size, now.st_mtime_ns, now.st_mode)


def test_a_bundle_is_on_disk_before_it_has_its_name_and_has_its_name_before_it_is_released(
    store: BundleStore, parts: Callable[..., list[Path]], disk: Disk
) -> None:
    folders = parts()
    (folders[0] / "catalogue/items").chmod(0o600)  # modes that are opened to others are to be on disk, too
    folder = store.root / publish(store, folders, FACTS, golden=golden)
    tree, released = [folder, *folder.rglob("*")], store.root / RELEASE_FILE
    calls = disk.calls(store)
    assert sorted(calls[: len(tree)]) == sorted(("fsync", path) for path in tree), "every file and every folder"
    assert calls[len(tree) :] == [
        ("rename", folder),
        ("fsync", store.root),
        ("fsync", released),
        ("rename", released),
        ("fsync", store.root),
    ]
    synced = {path: on for (_, path), (_, on) in zip(calls, disk.done, strict=True) if isinstance(on, os.stat_result)}
    assert [path for path in (*tree, released) if not _unchanged_since(synced[path], path)] == []


def test_a_rollback_is_on_disk_before_it_is_seen(
    store: BundleStore, parts: Callable[..., list[Path]], disk: Disk
) -> None:
    for content in "ab":
        publish(store, parts(content), FACTS, golden=golden)
    disk.done.clear()
    rollback(store)
    released = store.root / RELEASE_FILE
    assert disk.calls(store) == [("fsync", released), ("rename", released), ("fsync", store.root)]
    synced = disk.done[0][1]
    assert isinstance(synced, os.stat_result)
    assert _unchanged_since(synced, released)


def test_a_failing_golden_request_publishes_nothing(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    version = publish(store, parts("a"), FACTS, golden=golden)
    before = (store.root / "CURRENT").read_bytes()

    def fail(folder: Path) -> None:
        golden(folder)
        raise ContractBroken("vector: an answer with a NaN")

    with pytest.raises(ContractBroken, match="NaN"):
        publish(store, parts("b"), FACTS, golden=fail)
    assert (store.root / "CURRENT").read_bytes() == before
    assert _visible(store) == sorted([version, "CURRENT"])
    assert [path.name for path in store.root.iterdir() if path.name.startswith(".")] == [".lock"]


def test_until_it_is_whole_a_bundle_is_hidden(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    seen: list[tuple[str, list[str]]] = []

    def look(folder: Path) -> None:
        golden(folder)
        seen.append((folder.name, _visible(store)))

    publish(store, parts(), FACTS, golden=look)
    ((staging, visible),) = seen
    assert staging.startswith(".staging-")
    assert visible == []


def test_a_publisher_that_is_killed_leaves_nothing_that_is_seen(
    store: BundleStore, parts: Callable[..., list[Path]]
) -> None:
    version = publish(store, parts("a"), FACTS, golden=golden)
    arguments = [sys.executable, "-c", KILLED, str(store.root), str(parts("b")[0])]
    killed = subprocess.run(arguments, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in store.root.glob(".staging-*/golden")] == ["golden"]
    assert store.versions() == [version]
    assert store.release() == Release(version, None)
    following = publish(store, parts("b"), FACTS, golden=golden)
    assert store.release() == Release(following, version)
    assert list(store.root.glob(".staging-*")) == []


def test_the_same_content_is_not_published_twice(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    first = publish(store, parts(), FACTS, golden=golden)
    measured_again = replace(FACTS, metrics={"ranked.warm.ndcg@10": 0.5})
    assert publish(store, parts(), measured_again, golden=golden) == first
    assert store.versions() == [first]
    assert store.release() == Release(first, None)


def test_a_report_alone_is_no_new_content(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    folders = parts()
    first = publish(store, folders, FACTS, golden=golden)
    (folders[1] / "report/all.md").write_text("the same figures, in other seconds")
    assert publish(store, folders, FACTS, golden=golden) == first


@pytest.mark.parametrize(
    "change",
    [
        {"policy": POLICY.model_copy(update={"ranking": "ranked"})},
        {"events_watermarks": {"a": 8}},
        {"events_watermarks": {"b": 7}},
        {"cutoff": 1_001},
    ],
    ids=["policy", "watermark", "log", "cutoff"],
)
def test_facts_that_servers_act_on_are_content(
    store: BundleStore, parts: Callable[..., list[Path]], change: dict[str, object]
) -> None:
    first = publish(store, parts(), FACTS, golden=golden)
    second = publish(store, parts(), replace(FACTS, **change), golden=golden)  # type: ignore[arg-type]
    assert second != first
    assert store.release() == Release(second, first)


def _flip_a_bit(bundle: Path) -> None:
    path = bundle / "vector/model"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def _write_another_format(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 99'))


@pytest.mark.parametrize("harm", [_flip_a_bit, _write_another_format, shutil.rmtree], ids=["bit", "format", "gone"])
def test_a_bundle_that_no_server_can_load_is_published_again(
    store: BundleStore, parts: Callable[..., list[Path]], harm: Callable[[Path], None]
) -> None:
    first = publish(store, parts(), FACTS, golden=golden)
    aged = _age(store, 1)
    harm(store.root / aged)
    second = publish(store, parts(), FACTS, golden=golden)
    assert (second[-12:], store.release()) == (first[-12:], Release(second, aged))
    for role in ROLE_FOLDERS:
        store.open(second).verify(role)


def test_a_release_file_that_cannot_be_read_is_replaced(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    publish(store, parts("a"), FACTS, golden=golden)
    (store.root / "CURRENT").write_text("{")
    second = publish(store, parts("b"), FACTS, golden=golden)
    assert store.release() == Release(second, None)


def test_rollback_swaps_the_two_versions(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    first = publish(store, parts("a"), FACTS, golden=golden)
    second = publish(store, parts("b"), FACTS, golden=golden)
    assert rollback(store) == store.release() == Release(first, second)
    assert rollback(store) == store.release() == Release(second, first)


def test_rollback_refuses_where_there_is_nothing_to_go_back_to(
    store: BundleStore, parts: Callable[..., list[Path]]
) -> None:
    with pytest.raises(BundleMissing, match=r"no bundle was ever published here; run `python -m offline run`"):
        rollback(store)
    first = publish(store, parts(), FACTS, golden=golden)
    with pytest.raises(BundleMissing, match=rf"{first} is the first bundle, there is none to roll back to"):
        rollback(store)
    assert store.release() == Release(first, None)


def test_rollback_refuses_a_version_that_is_gone(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    first = publish(store, parts("a"), FACTS, golden=golden)
    second = publish(store, parts("b"), FACTS, golden=golden)
    (store.root / first / "manifest.json").unlink()
    with pytest.raises(BundleMissing, match=f"no bundle {first} on disk, only {second}"):
        rollback(store)
    assert store.release() == Release(second, first)


def test_rollback_refuses_a_version_of_another_format(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    first = publish(store, parts("a"), FACTS, golden=golden)
    second = publish(store, parts("b"), FACTS, golden=golden)
    path = store.root / first / "manifest.json"
    path.write_text(path.read_text().replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 99'))
    with pytest.raises(BundleMismatch, match=f"bundle format 99, but this software reads format {FORMAT_VERSION}"):
        rollback(store)
    assert store.release() == Release(second, first)


def test_the_oldest_are_removed(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    versions = []
    for number in range(5):
        publish(store, parts(str(number)), FACTS, golden=golden, keep=3)
        versions.append(_age(store, number))
    assert sorted(store.versions()) == sorted(versions[-3:])
    assert store.release() == Release(versions[-1], versions[-2])


def test_what_serves_and_what_came_before_is_never_removed(
    store: BundleStore, parts: Callable[..., list[Path]]
) -> None:
    versions = []
    for number in range(3):
        publish(store, parts(str(number)), FACTS, golden=golden)
        versions.append(_age(store, number))
    store.write_release(Release(versions[0], versions[1]))
    following = publish(store, parts("new"), FACTS, golden=golden, keep=2)
    assert store.release() == Release(following, versions[0])
    assert sorted(store.versions()) == sorted([following, versions[0]])


def test_publishers_wait_for_one_another(store: BundleStore, parts: Callable[..., list[Path]]) -> None:
    store.root.mkdir()
    published: list[str] = []
    folders = parts()
    waiting = threading.Thread(target=lambda: published.append(publish(store, folders, FACTS, golden=golden)))
    with (store.root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert _visible(store) == []
    waiting.join(120)
    assert store.release().current == published[0]


def _age(store: BundleStore, day: int) -> str:
    """Dates the current bundle back, to the `day` of an old month: names of one second differ in their digest only."""
    release = store.release()
    aged = f"2000010{day + 1}{release.current[8:]}"
    path = store.root / release.current / "manifest.json"
    path.write_text(path.read_text().replace(release.current, aged))
    path.parent.rename(store.root / aged)
    store.write_release(Release(aged, release.previous))
    return aged
