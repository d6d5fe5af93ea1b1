"""The towers as steps of recall: text vectors reach them, and a later cut-off continues an earlier one's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose

from offline.dataset.interactions import Dataset
from offline.dataset.tables import SCHEMAS
from offline.recall.popularity import PopularityConfig
from offline.recall.text.config import TextConfig
from offline.recall.text.vectors import VECTORS_FILE
from offline.recall.two_tower.checkpoint import WEIGHTS_FILE
from offline.recall.two_tower.config import SequenceConfig, TwoTowerConfig
from offline.steps.workspace import Step, Workspace
from offline.workflow.config import OfflineConfig, RecallConfig
from offline.workflow.recall_steps import RecallModels, train_recall
from offline.workflow.workflow import Workflow
from recall_server.channels.popularity import PopularityChannel
from recall_server.channels.vector import VectorChannel
from recsys.domain import RecallQuery
from tests.offline.recall.two_tower.towers import varied
from tests.offline.tastes import DAY, DAYS, dataset_of_tastes

TOWERS = TwoTowerConfig(
    tower="sequence",
    threads=1,
    device="cpu",
    sequence=SequenceConfig(text=True, size=8, epochs=2, refit_epochs=1, continue_epochs=1),
)


def config_of(towers: TwoTowerConfig, text: TextConfig) -> RecallConfig:
    return RecallConfig(("popularity", "vector"), {"popularity": PopularityConfig(), "vector": towers}, text)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return dataset_of_tastes()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Step:
    """Tables that say of an item only its title, which names its genre."""
    folder = tmp_path_factory.mktemp("tables")
    titles = ["drama love" if item % 2 else "western horse" for item in dataset.items.item_ids.tolist()]
    pq.write_table(pa.table({"item_id": dataset.items.item_ids, "title": titles}), folder / "items.parquet")
    for name in ("item_people", "item_texts"):
        pq.write_table(SCHEMAS[name].empty_table(), folder / f"{name}.parquet")
    return Step("tables", "0" * 16, folder, reused=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset, tables: Step) -> list[RecallModels]:
    """Of two cut-offs, the second continued from the first."""
    workspace, trained = Workspace(tmp_path_factory.mktemp("recall") / "work"), list[RecallModels]()
    for cutoff in (DAYS * DAY // 2, DAYS * DAY):
        earlier = trained[-1] if trained else None
        config = config_of(TOWERS, TextConfig(dimensions=2))
        trained.append(train_recall(workspace, dataset, cutoff, config=config, tables=tables, earlier=earlier))
    workspace.release()
    return trained


def test_towers_read_the_text_vectors_of_their_cut_off(models: list[RecallModels]) -> None:
    for model in models:
        assert model.text is not None
        assert np.load(model.text.folder / VECTORS_FILE).shape == (60, 2)
        with np.load(model.channels["vector"].folder / WEIGHTS_FILE) as weights:
            assert weights["items.side.text.weight"].shape == (8, 2)
        assert not (model.view.folder / VECTORS_FILE).exists()


STILL = {"learning_rate": 1e-9}
"""Towers that hardly move: where they begin is where they end."""


@pytest.mark.parametrize("tower", ["sequence", "pooled"])
def test_the_towers_of_a_later_cut_off_begin_where_the_earlier_ones_ended(
    tmp_path: Path, dataset: Dataset, tables: Step, tower: str
) -> None:
    size = {"embedding_size": 8, "heads": 2, "hidden": 16, "min_examples": 64}
    phases = {"epochs": 2, "refit_epochs": 0, "continue_epochs": 1}
    swift = {"averaging": 0.0, "learning_rate": 0.02}
    moving = varied(TOWERS, tower=tower, pooled=size | phases | swift, sequence=swift | {"text": False})
    still, workspace = varied(moving, pooled=STILL, sequence=STILL), Workspace(tmp_path / "work")
    found: list[dict[str, np.ndarray]] = []
    earlier: RecallModels | None = None
    for cutoff, towers in ((DAYS * DAY // 2, moving), (DAYS * DAY, still)):
        config = config_of(towers, TextConfig(source="none"))
        earlier = train_recall(workspace, dataset, cutoff, config=config, tables=tables, earlier=earlier)
        with np.load(earlier.channels["vector"].folder / WEIGHTS_FILE) as weights:
            found.append({name: weights[name] for name in weights.files})
    alone = train_recall(workspace, dataset, DAYS * DAY, config=config, tables=tables)
    workspace.release()
    learned = [name for name in found[0] if name.startswith("users.") and name.endswith(".weight")]
    assert learned
    with np.load(alone.channels["vector"].folder / WEIGHTS_FILE) as weights:
        for name in learned:
            assert_allclose(found[1][name], found[0][name], atol=1e-5, err_msg=name)
        assert any(not np.allclose(weights[name], found[0][name], atol=1e-3) for name in learned), "nothing was learned"


def test_each_cut_off_of_a_workflow_continues_the_one_before(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, int | None]] = []

    def train(*arguments: object, earlier: SimpleNamespace | None, **_: object) -> SimpleNamespace:
        models = SimpleNamespace(cutoff=arguments[2])
        trained.append((models.cutoff, earlier.cutoff if earlier else None))
        return models

    monkeypatch.setattr("offline.workflow.recall_steps.train_recall", train)
    arguments = ["--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path)]
    workflow = Workflow(OfflineConfig.from_arguments(arguments, "test"))
    assert workflow.plan.production is not None
    workflow.recall.models(workflow.plan.production.training_view)
    cutoffs = [*workflow.split.cutoffs, workflow.split.test.until]
    assert len(cutoffs) > 3
    assert trained == list(zip(cutoffs, [None, *cutoffs[:-1]], strict=True))


def test_other_data_of_the_same_size_is_trained_again(tmp_path: Path, dataset: Dataset, tables: Step) -> None:
    """What a protocol keeps of the tables is decided before any step: the key sees the data, not only its size."""
    config = RecallConfig(("popularity",), {"popularity": PopularityConfig()})
    workspace, keys = Workspace(tmp_path / "work"), set[str]()
    events = dataset.interactions
    swapped = replace(dataset, interactions=replace(events, item_ids=events.item_ids[::-1].copy()))
    for known in (dataset, swapped, dataset):
        keys.add(train_recall(workspace, known, DAYS * DAY, config=config, tables=tables).channels["popularity"].key)
    workspace.release()
    assert len(keys) == 2


def test_the_view_is_made_again_when_a_channel_that_reads_it_changes(
    tmp_path: Path, dataset: Dataset, tables: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer need not import its channel; what opens the view depends on it all the same."""
    config = RecallConfig(("popularity",), {"popularity": PopularityConfig()})
    named: list[object] = []
    run = Workspace.run

    def noting(self: Workspace, name: str, *arguments: Any, **options: Any) -> Step:
        named.extend(options.get("also", ()) if name == "recall" else ())
        return run(self, name, *arguments, **options)

    monkeypatch.setattr(Workspace, "run", noting)
    workspace = Workspace(tmp_path / "work")
    train_recall(workspace, dataset, DAYS * DAY, config=config, tables=tables)
    workspace.release()
    assert named == [PopularityChannel]


def test_what_recall_trained_serves(models: list[RecallModels]) -> None:
    snapshot = models[1].known()
    query = RecallQuery(snapshot.history(1).sequence(), snapshot.cutoff, 5)
    [result] = VectorChannel.open(models[1].view.folder).recall([query])
    assert len(set(result.item_ids.tolist())) == 5


def test_towers_that_read_no_text_have_no_step_for_it() -> None:
    pooled = TOWERS.model_copy(update={"tower": "pooled"})
    silent = varied(TOWERS, sequence={"text": False})
    assert config_of(TOWERS, TextConfig()).reads_text
    assert not config_of(pooled, TextConfig()).reads_text
    assert not config_of(silent, TextConfig()).reads_text
    assert not config_of(TOWERS, TextConfig(source="none")).reads_text
