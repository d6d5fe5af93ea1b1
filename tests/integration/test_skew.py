"""`check-skew`: a real rank server computes what training computes, and where it does not, the feature is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offline.commands import skew
from offline.commands.check_skew import SkewConfig, check_skew
from offline.commands.cli import main
from offline.commands.skew import differences, drawn_requests, record_queries
from offline.local.cluster import LocalCluster
from offline.local.ports import Ports
from offline.local.programs import programs
from offline.workflow.workflow import Workflow
from rank_server.scoring import Ranker
from recsys.bundle import BundleStore, FileEntry
from recsys.bundle.golden import golden_file, record_rank
from recsys.bundle.manifest import MANIFEST_FILE
from recsys.bundle.store import sha256_of
from recsys.errors import BundleMismatch, BundleMissing, ContractBroken, Unreachable
from recsys.features import MATRIX_FILE, FeatureStore
from recsys.features.items import ITEM_NAMES
from recsys.features.ranks import RANK_NAMES
from recsys.features.similarity import SIMILARITY_NAMES
from tests.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.integration]

BROKEN = "item_mean_rating"
REQUESTS = 12
ROUNDING = 2e-6
"""Sums of another number of threads of linear algebra differ in the last digits."""


@contextmanager
def rank_server(root: Path, logs: Path) -> Iterator[str]:
    """A rank server as a process of its own on the bundles below `root`; yields its HOST:PORT."""
    ports = Ports.free()
    servers = programs(root.absolute(), logs, ports, settings={"log-level": "WARNING"})
    with LocalCluster([server for server in servers if server.name == "rank"], logs) as cluster:
        cluster.wait_healthy(PATIENCE_SECONDS)
        yield ports.target("rank")


def break_feature(store: BundleStore) -> None:
    """Shifts one column of the released bundle so that every check of the bundle itself still passes."""
    bundle = store.open(store.release().current)
    path = bundle.folder / MATRIX_FILE
    items = np.load(path, allow_pickle=False)
    items[:, ITEM_NAMES.index(BROKEN)] += 0.5
    np.save(path, items)
    record_rank(
        bundle.folder, record_queries(bundle, drawn_requests(bundle, 3, seed=0)), Ranker.open(bundle.folder).score
    )
    changed = {
        name: FileEntry(sha256=sha256_of(bundle.folder / name), bytes=(bundle.folder / name).stat().st_size)
        for name in (MATRIX_FILE, golden_file("rank"))
    }
    manifest = bundle.manifest.model_copy(update={"files": {**bundle.manifest.files, **changed}})
    (bundle.folder / MANIFEST_FILE).write_text(manifest.model_dump_json(), encoding="utf-8")


def config_of(workflow: Workflow, target: str, *, root: Path | None = None) -> SkewConfig:
    """Settings of a check of the rank server at `target`."""
    return SkewConfig(
        dataset=workflow.config.dataset, root=root or workflow.config.root, rank=target, requests=REQUESTS
    )


@pytest.fixture(scope="module")
def sound(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A rank server on what was published."""
    with rank_server(trained.config.store("production").root, tmp_path_factory.mktemp("sound")) as target:
        yield target


@pytest.fixture(scope="module")
def broken_root(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the data root, tables and production bundles, with one feature broken in the bundle."""
    root = tmp_path_factory.mktemp("broken") / "data"
    for folder in ("tables", "bundles/production"):
        shutil.copytree(trained.config.home / folder, root / trained.config.dataset / folder)
    break_feature(BundleStore(root / trained.config.dataset / "bundles/production"))
    return root


@pytest.fixture(scope="module")
def broken(trained: Workflow, broken_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A rank server on the broken copy, under the version of the sound bundle."""
    root = broken_root / trained.config.dataset / "bundles/production"
    with rank_server(root, tmp_path_factory.mktemp("broken-logs")) as target:
        yield target


def test_a_sound_server_has_no_skew(trained: Workflow, sound: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = trained.config
    main(["check-skew", "--dataset", config.dataset, "--root", str(config.root), "--rank", sound, "--requests", "12"])
    shown = capsys.readouterr().out
    store = config.store("production")
    features = len(store.open(store.release().current).manifest.feature_names)
    for party in ("bundle", "training"):
        found = re.search(rf"against {party}: largest difference (\S+)", shown)
        assert found
        assert float(found.group(1)) <= ROUNDING
    assert shown.endswith(f"no skew in 13 requests × {features} features\n")


def test_a_server_with_other_files_is_caught_by_both(
    trained: Workflow, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = trained.config
    with pytest.raises(SystemExit) as caught:
        main(["check-skew", "--dataset", config.dataset, "--root", str(config.root), "--rank", broken])
    assert caught.value.code == 2
    output = capsys.readouterr()
    complaint = output.err.splitlines()[-1]
    assert f"e-01  {BROKEN}: " in output.out
    assert complaint.startswith("error: skew in bundle ")
    for party in ("bundle", "training"):
        after = complaint.partition(f"against {party}, ")[2].partition("|")[0]
        assert f"{BROKEN}: " in after


def test_a_bundle_that_is_not_what_was_learned_is_caught_by_training(
    trained: Workflow, broken_root: Path, broken: str
) -> None:
    with pytest.raises(ContractBroken, match=f"against training, .*{BROKEN}: ") as caught:
        check_skew(config_of(trained, broken, root=broken_root))
    assert "against bundle" not in str(caught.value)


def test_without_tables_the_bundle_alone_speaks(
    trained: Workflow, broken_root: Path, broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = f"{trained.config.dataset}/bundles"
    shutil.copytree(broken_root / bundles, tmp_path / bundles)
    check_skew(config_of(trained, broken, root=tmp_path))
    shown = capsys.readouterr().out
    assert "against bundle" in shown
    assert "against training" not in shown


def test_a_version_of_another_purpose_is_not_found(trained: Workflow, sound: str) -> None:
    config = config_of(trained, sound).model_copy(update={"purpose": "evaluation"})
    with pytest.raises(BundleMissing, match="on disk, only"):
        check_skew(config)


def test_nobody_there_is_said_in_one_line(trained: Workflow) -> None:
    target = Ports.free().target("rank")
    with pytest.raises(Unreachable, match=f"no answer of a rank server at {target} .*check --rank"):
        check_skew(config_of(trained, target))


def test_tables_of_other_items_are_refused(trained: Workflow) -> None:
    production, evaluation = trained.config.store("production"), trained.config.store("evaluation")
    bundle = production.open(production.release().current)
    folder = evaluation.open(evaluation.release().current).folder
    early = bundle.manifest.model_copy(update={"cutoff": trained.split.dataset.interactions.timestamps[200]})
    with pytest.raises(BundleMismatch, match="not those of bundle"):
        skew.training_store(type(bundle)(folder, early), config_of(trained, "nobody:1"))


def test_a_broken_similarity_is_named(trained: Workflow) -> None:
    """Vectors of other items reach the features that are made of them, and no other."""
    bundles = trained.config.store("production")
    bundle = bundles.open(bundles.release().current)
    queries, store = record_queries(bundle, drawn_requests(bundle, 3, seed=0)), FeatureStore.open(bundle.folder)
    mixed = replace(store, vectors=np.roll(store.vectors, 1, axis=0))
    served = [(store.feature_names, mixed.features(query)) for query in queries]
    found = differences(queries, served, [store.features(query) for query in queries], store.feature_names)
    bad = {difference.name for difference in found if difference.amount > 1e-5}
    of_vectors = {*SIMILARITY_NAMES, *(name for name in RANK_NAMES if "similarity" in name)}
    assert "cross_last_similarity" in bad
    assert bad <= of_vectors


def test_other_names_another_order_and_nan_are_differences(trained: Workflow) -> None:
    store = trained.config.store("production")
    bundle = store.open(store.release().current)
    (query, *_) = record_queries(bundle, drawn_requests(bundle, 1, seed=0))
    n = len(query.candidates)
    expected, names = np.full((n, 2), 4.0, np.float32), ("a", "b")
    for other, message in (
        (("b", "a"), "feature column 0 of the rank server is 'b', training's is 'a'"),
        (("a",), "has 1 features, training 2"),
    ):
        with pytest.raises(ContractBroken, match=message):
            differences([query], [(other, expected)], [expected], names)
    served = expected.copy()
    served[n - 1] = (5.0, np.nan)
    worst, second = differences([query], [(names, served)], [expected], names)
    assert (worst.name, worst.amount, worst.item_id) == ("b", np.inf, query.candidates.item_ids[-1])
    assert (second.name, second.amount, second.served, second.expected) == ("a", 0.25, 5.0, 4.0)
