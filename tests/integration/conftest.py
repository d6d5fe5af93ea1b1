"""One small trained system for all integration tests: real data flow, real bundles, quick settings."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from offline.ingest.demo.catalogue import read_catalogue
from offline.ingest.demo.world import generate
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow

USERS = 700
QUICK = (
    "--two-tower.pooled.epochs=2",
    "--two-tower.pooled.refit-epochs=0",
    "--lightgbm.max-rounds=50",
    "--samples.max-users=300",
    "--split.windows=0.65",
    "--serving.clock=cutoff",
)


def write_world(folder: Path) -> None:
    """A small synthetic world as a user's own interactions: string keys for users, numbers for items."""
    world = generate(read_catalogue(), users=USERS, events_per_user=45.0, seed=7)
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "item", "timestamp", "rating"))
        columns = (world.user_id, world.item_id, world.timestamp, world.value)
        for user, item, timestamp, value in zip(*(column.tolist() for column in columns), strict=True):
            writer.writerow((f"u-{user}", item, timestamp, value))
    catalogue = world.catalogue
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "title", "genres", "year"))
        rows = zip(catalogue.item_id.tolist(), catalogue.title, catalogue.genres, catalogue.year.tolist(), strict=True)
        for item, title, genres, year in rows:
            writer.writerow((item, title, "|".join(genres), year))


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> OfflineConfig:
    """Configuration of the small system; its raw files are written.

    Of several processes the first one works where `--small-system` says, and finds there what an earlier run has done.
    """
    kept = request.config.getoption("--small-system") if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0" else None
    root = Path(kept) if kept else tmp_path_factory.mktemp("small")
    (root / "raw").mkdir(parents=True, exist_ok=True)
    write_world(root / "raw")
    arguments = ["--dataset", "small", "--data-dir", str(root / "raw"), "--root", str(root / "data"), *QUICK]
    return OfflineConfig.from_arguments(arguments, "test")


@pytest.fixture(scope="session")
def trained(small_config: OfflineConfig) -> Workflow:
    """The small system, trained and published: an evaluation and a production bundle."""
    workflow = Workflow(small_config)
    report = workflow.evaluation("all")
    for purpose in ("evaluation", "production"):
        workflow.publish(purpose, report=report)
    return workflow
