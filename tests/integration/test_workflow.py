"""From raw files to two bundles: nothing runs twice, nothing of the future reaches the past, all of it is answered."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gateway.bundle.gateway_golden import check_gateway
from gateway.bundle.state import StoredHistories, read_users
from gateway.pipeline.fallback import Fallback
from offline.commands.cli import main
from offline.dataset.ids import FIRST_ASSIGNED
from offline.dataset.interactions import Dataset, Interactions
from offline.dataset.splits import Split, SplitConfig
from offline.ingest.demo.catalogue import read_catalogue
from offline.ingest.demo.world import generate
from offline.publish.publish import REPORT_FOLDER
from offline.workflow.config import OfflineConfig, Purpose
from offline.workflow.workflow import Workflow
from rank_server.scoring import Ranker
from recall_server.channels.registry import channel_class
from recsys.bundle import Bundle, BundleStore, Release
from recsys.bundle.golden import check_rank, check_recall
from recsys.catalogue import Catalogue, ItemTexts
from recsys.domain import EventType
from tests.integration.work import finished_steps

pytestmark = [pytest.mark.integration]

PURPOSES: tuple[Purpose, ...] = ("evaluation", "production")
TINY = (
    "--two-tower.pooled.epochs=1",
    "--two-tower.pooled.refit-epochs=0",
    "--lightgbm.max-rounds=10",
    "--samples.max-users=100",
    "--split.windows=0.65",
    "--bootstrap.resamples=50",
)


def _released(store: BundleStore) -> Bundle:
    return store.open(store.release().current)


def _bundle(workflow: Workflow, purpose: Purpose) -> Bundle:
    return _released(workflow.config.store(purpose))


def _contents(bundle: Bundle) -> dict[str, bytes]:
    """Every file that is not about the test window: what is served, and what made it."""
    paths = [path for path in bundle.manifest.files if not path.startswith(f"{REPORT_FOLDER}/")]
    return {path: (bundle.folder / path).read_bytes() for path in paths}


# The bundles


@pytest.mark.parametrize("purpose", PURPOSES)
def test_every_file_is_as_it_was_published(trained: Workflow, purpose: Purpose) -> None:
    bundle = _bundle(trained, purpose)
    assert set(bundle.manifest.roles) == {"gateway", "rank", *(each.name for each in bundle.manifest.policy.channels)}
    for role in bundle.manifest.roles:
        bundle.verify(role)
    on_disk = {path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*") if path.is_file()}
    assert on_disk == {*bundle.manifest.files, "manifest.json"}


@pytest.mark.parametrize("purpose", PURPOSES)
def test_every_role_answers_its_golden_requests(trained: Workflow, purpose: Purpose) -> None:
    bundle = _bundle(trained, purpose)
    for role in ("popularity", "itemcf", "vector"):
        check_recall(bundle.folder, role, channel_class(role).load(bundle).recall)
    check_rank(bundle.folder, Ranker.load(bundle).score)
    catalogue = Catalogue.load(bundle.folder)
    check_gateway(
        bundle.folder,
        catalogue=catalogue,
        texts=ItemTexts.load(bundle.folder),
        histories=StoredHistories.open(bundle.folder),
        fallback=Fallback.open(bundle.folder, catalogue),
    )


@pytest.mark.parametrize("purpose", PURPOSES)
def test_golden_requests_are_of_users_with_and_without_a_history(trained: Workflow, purpose: Purpose) -> None:
    bundle = _bundle(trained, purpose)
    content = json.loads((bundle.folder / "golden/vector.json").read_text())
    lengths = [len(pair["query"]["history"]["item_ids"]) for pair in content["requests"]]
    assert lengths[:-1] == sorted(lengths[:-1])
    assert lengths[-2] > lengths[0] > lengths[-1] == 0
    assert {pair["query"]["as_of"] for pair in content["requests"]} == {bundle.manifest.cutoff}


def test_the_two_bundles_end_at_their_moments(trained: Workflow) -> None:
    cutoffs = [_bundle(trained, purpose).manifest.cutoff for purpose in PURPOSES]
    assert cutoffs == [trained.split.test.cutoff, trained.split.test.until]
    assert [_bundle(trained, purpose).manifest.purpose for purpose in PURPOSES] == list(PURPOSES)
    assert int(StoredHistories.open(_bundle(trained, "production").folder).timestamps.max()) == cutoffs[1]


def test_nothing_in_the_evaluation_bundle_is_later_than_t2(trained: Workflow) -> None:
    folder, cutoff = _bundle(trained, "evaluation").folder, trained.split.test.cutoff
    known = trained.dataset.interactions.until(cutoff)
    histories = StoredHistories.open(folder)
    assert len(histories.item_ids) == len(known)
    assert int(histories.timestamps.max()) <= cutoff
    assert set(histories.user_ids.tolist()) == set(known.user_ids.tolist())
    assert set(read_users(folder).values()) == set(known.user_ids.tolist())
    items = trained.dataset.items
    assert Catalogue.load(folder).item_ids.tolist() == items.item_ids[items.available_from <= cutoff].tolist()
    towers = pq.read_table(folder / "two_tower/users.parquet")["user_id"].to_pylist()
    assert set(towers) <= set(known.user_ids.tolist())


def test_the_policy_of_the_manifest_is_what_validation_chose(trained: Workflow) -> None:
    choice = json.loads((trained.ranking.choice.folder / "choice.json").read_text())
    assert choice["ranking"] == ("ranked" if choice["ranked"] > choice["blended"] else "blended")
    for purpose in PURPOSES:
        policy = _bundle(trained, purpose).manifest.policy
        assert policy == trained.ranking.policy
        assert policy.ranking == choice["ranking"]
        assert [channel.name for channel in policy.channels] == ["popularity", "itemcf", "vector"]
        assert sum(channel.weight for channel in policy.channels) > 0


def test_the_manifest_carries_the_headline_of_the_report(trained: Workflow) -> None:
    bundle = _bundle(trained, "evaluation")
    report = json.loads((bundle.folder / REPORT_FOLDER / "all.json").read_text())
    assert report["cutoff"] == trained.split.test.cutoff
    for row in report["rows"]:
        name = f"{row['system']}.{row['group']}.ndcg@10"
        assert bundle.manifest.metrics[name] == pytest.approx(row["figures"]["ndcg@10"]["mean"], abs=1e-6)
    assert {row["system"] for row in report["rows"]} == {"popularity", "itemcf", "vector", "blended", "ranked"}


def test_keys_of_users_lead_to_their_histories(trained: Workflow) -> None:
    folder = _bundle(trained, "production").folder
    with (trained.config.data_dir or Path()).joinpath("interactions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["user"] == "u-17"]
    number = read_users(folder)["u-17"]
    assert number >= FIRST_ASSIGNED
    assert StoredHistories.open(folder).of(number).item_ids.tolist() == [int(row["item"]) for row in rows]


def test_a_second_run_does_nothing(trained: Workflow) -> None:
    before = finished_steps(trained.config.home)
    releases = [trained.config.store(purpose).release() for purpose in PURPOSES]
    again = Workflow(trained.config)
    report = again.evaluation("all")
    versions = [again.publish(purpose, report=report) for purpose in PURPOSES]
    assert (again.tables.reused, report.reused) == (True, True)
    assert all(step.reused for purpose in PURPOSES for step in again.parts(purpose).steps)
    assert finished_steps(trained.config.home) == before
    assert [trained.config.store(purpose).release() for purpose in PURPOSES] == releases
    assert versions == [release.current for release in releases]


# The future


def pinned(interactions: Interactions, known: Split) -> SplitConfig:
    """The split of `interactions` whose cut-offs are those of `known`, however many events came later."""
    places = np.searchsorted(interactions.timestamps, known.cutoffs, side="right") - 1
    *windows, validation, test = ((place + 0.5) / (len(interactions) - 1) for place in places.tolist())
    return SplitConfig(windows=tuple(windows), validation=validation, test=test)


def write_absurd_future(raw: Path, after: int, end: int) -> None:
    """Appends what would change everything if it were known: loved and hated items, strangers, a new genre."""
    moments = [after + 1 + number * (end - after) // 400 for number in range(400)]
    with (raw / "interactions.csv").open("a", newline="") as file:
        writer = csv.writer(file)
        for number, moment in enumerate(moments):
            writer.writerow((f"u-{1 + number % 300}", 900_001, moment, 10.0))
            writer.writerow((f"stranger-{number % 50}", 1 + number % 200, moment, 0.0))
            writer.writerow((f"u-{1 + number % 300}", "brand-new", end + number, 10.0))
    with (raw / "items.csv").open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((900_001, "The Absurd", "Absurdity|Drama", 2999))
        writer.writerow(("brand-new", "Brand New", "Novelty", 3000))
        writer.writerow((900_002, "Never Seen", "Drama", 1950))


@pytest.fixture(scope="module")
def haunted(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The same system with an absurd future, trained up to the same T2 and published."""
    root = tmp_path_factory.mktemp("haunted")
    assert trained.config.data_dir is not None
    shutil.copytree(trained.config.data_dir, root / "raw")
    write_absurd_future(root / "raw", trained.split.test.cutoff, trained.split.test.until)
    places = {"data_dir": root / "raw", "root": root / "data"}
    moved = Workflow(trained.config.model_copy(update=places))
    split = pinned(moved.dataset.interactions, trained.split)
    workflow = Workflow(trained.config.model_copy(update={**places, "split": split}))
    workflow.publish("evaluation")
    return workflow


def test_the_absurd_future_is_in_the_data_and_the_cutoffs_are_the_same(trained: Workflow, haunted: Workflow) -> None:
    assert haunted.split.cutoffs == trained.split.cutoffs
    assert len(haunted.dataset.interactions) == len(trained.dataset.interactions) + 1_200
    assert haunted.split.test.until > trained.split.test.until
    assert {900_001, 900_002} <= set(haunted.dataset.items.item_ids.tolist())
    assert {"Absurdity", "Novelty"} <= set(haunted.dataset.items.genre_names)


def test_no_file_of_the_evaluation_bundle_knows_the_future(trained: Workflow, haunted: Workflow) -> None:
    expected, found = (_contents(_bundle(workflow, "evaluation")) for workflow in (trained, haunted))
    assert list(found) == list(expected)
    assert [path for path in expected if found[path] != expected[path]] == []


def test_no_choice_of_the_evaluation_bundle_knows_the_future(trained: Workflow, haunted: Workflow) -> None:
    expected, found = (_bundle(workflow, "evaluation").manifest for workflow in (trained, haunted))
    for field in ("cutoff", "policy", "feature_names", "index", "roles", "events_watermarks"):
        assert getattr(found, field) == getattr(expected, field), field
    assert found.bundle_version[-12:] == expected.bundle_version[-12:], "the digest of everything that is served"
    choices = [
        json.loads((workflow.ranking.choice.folder / "choice.json").read_text()) for workflow in (trained, haunted)
    ]
    assert choices[0] == choices[1]


# A set without ratings


def write_views(folder: Path) -> int:
    """Who watched what and when, without ratings; every key is a string. Returns the number of events."""
    folder.mkdir()
    world = generate(read_catalogue(), users=250, events_per_user=40.0, seed=11)
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "item", "timestamp"))
        columns = (world.user_id.tolist(), world.item_id.tolist(), world.timestamp.tolist())
        for user, item, timestamp in zip(*columns, strict=True):
            writer.writerow((f"viewer {user}", f"film-{item:03}", timestamp))
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "title"))
        for item, title in zip(world.catalogue.item_id.tolist(), world.catalogue.title, strict=True):
            writer.writerow((f"film-{item:03}", title))
    return len(world.item_id)


@pytest.fixture(scope="module")
def unrated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The command, run on a set without ratings."""
    root = tmp_path_factory.mktemp("unrated")
    events = write_views(root / "raw")
    arguments = ["--dataset", "shop", "--data-dir", str(root / "raw"), "--root", str(root / "data"), *TINY]
    main(["run", *arguments])
    return {"arguments": arguments, "events": events, "config": OfflineConfig.from_arguments(arguments, "test")}


def test_a_set_without_ratings_runs_from_end_to_end(unrated: dict[str, Any]) -> None:
    config: OfflineConfig = unrated["config"]
    events = Dataset.load("shop", config.tables).interactions
    assert (len(events), set(events.types.tolist())) == (unrated["events"], {EventType.VIEW})
    assert np.isnan(events.values).all()
    for purpose in PURPOSES:
        bundle = _released(config.store(purpose))
        for role in bundle.manifest.roles:
            bundle.verify(role)
        assert bundle.manifest.policy.serving_clock == "wall"
        assert bundle.manifest.metrics["itemcf.warm.hit_rate@10"] > 0.1


def test_string_keys_are_numbers_inside_and_keys_outside(unrated: dict[str, Any]) -> None:
    folder = _released(unrated["config"].store("production")).folder
    users = read_users(folder)
    assert set(users) == {f"viewer {number}" for number in range(1, 251)}
    assert sorted(users.values()) == list(range(FIRST_ASSIGNED, FIRST_ASSIGNED + 250))
    texts, catalogue = ItemTexts.load(folder), Catalogue.load(folder)
    history = StoredHistories.open(folder).of(users["viewer 3"])
    keys = [texts.keys[row] for row in catalogue.rows(history.item_ids)]
    raw = (unrated["config"].data_dir / "interactions.csv").read_text().splitlines()
    assert keys == [line.split(",")[1] for line in raw if line.startswith("viewer 3,")]


def test_running_the_command_again_prints_the_table_and_trains_nothing(
    unrated: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config: OfflineConfig = unrated["config"]
    before = finished_steps(config.home)
    releases = [config.store(purpose).release() for purpose in PURPOSES]
    main(["run", *unrated["arguments"]])
    after = finished_steps(config.home)
    assert after.items() <= before.items()
    assert {name.split("-")[0] for name in before.keys() - after.keys()} <= {"models"}, "what only evaluate opens"
    assert [config.store(purpose).release() for purpose in PURPOSES] == releases
    table = capsys.readouterr().out
    assert table.startswith("shop, targets all, cut-off ")
    assert [line.split()[0] for line in table.splitlines() if " warm " in line and "[" in line] == [
        "popularity",
        "itemcf",
        "vector",
        "blended",
        "ranked",
    ]


def test_rollback_of_the_command_swaps_and_swaps_back(unrated: dict[str, Any]) -> None:
    config: OfflineConfig = unrated["config"]
    store = config.store("production")
    first = store.release().current
    main(["publish", *unrated["arguments"], "--serving.channel-count=150"])
    second = store.release().current
    assert store.open(second).manifest.policy.channels[0].count == 150
    main(["rollback", *unrated["arguments"]])
    assert store.release() == Release(first, second)
    main(["rollback", *unrated["arguments"], "--purpose", "production"])
    assert store.release() == Release(second, first)
