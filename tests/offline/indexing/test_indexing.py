"""Moving a bundle to more items: arrays by row, tables in a ranker's graph, and files of items added to a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import numpy_helper

from offline.dataset.tables import read_table
from offline.indexing.graph import extend_graph
from offline.indexing.parts import Indexing
from offline.indexing.rows import RowMap
from offline.ingest.datasets.added import WithItems
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.ingest import ingest
from offline.ingest.prepare import prepare_tables
from offline.ranking.rankers.graph import add_graphs
from offline.ranking.rankers.network import ranker
from offline.ranking.rankers.network.config import NetworkConfig
from offline.ranking.rankers.svd_export import export_rating
from offline.recall.als import ALSConfig
from offline.recall.content import ContentConfig
from offline.recall.two_tower import TwoTowerConfig
from offline.steps.code import ROOT, closure, source_file
from offline.workflow.config import OfflineConfig
from rank_server.onnx_graph import open_session
from recsys.errors import ContractBroken, DataError, DataMissing
from recsys.features.rating import RatingModel
from tests.offline.ranking import ranking_datasets

OLD, NEW = np.asarray([10, 20, 30]), np.asarray([10, 15, 20, 30, 99])
MAP = RowMap.of(OLD, NEW)
NETWORK = NetworkConfig(
    embedding_size=4, attention_size=4, history_limit=8, cross_rank=4, hidden=8, epochs=1, experts=2, threads=1
)  # fmt: skip


# Rows


def test_rows_move_and_new_ones_are_filled() -> None:
    assert MAP.before.tolist() == [0, -1, 1, 2, -1]
    assert MAP.new.tolist() == [False, True, False, False, True]
    assert MAP.moved(np.asarray([[1.0], [2.0], [3.0]]), 9.0).ravel().tolist() == [1, 9, 2, 3, 9]
    links = np.asarray([[2, 3], [0, 3]], np.int32)
    assert MAP.renumbered(links).tolist() == [[3, 5], [0, 5]], "the row after the last is still no item"
    assert MAP.renumbered(links).dtype == np.int32


def test_an_item_that_is_gone_is_an_error() -> None:
    with pytest.raises(DataError, match=r"2 items of the bundle are not in the tables \(ids 10, 30, …\)"):
        RowMap.of(OLD, NEW[1:3])


# Graphs


def rating_graph(path: Path) -> Path:
    rng = np.random.default_rng(4)
    vectors, biases = rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    export_rating(RatingModel(vectors, biases, mean=3.0, spread=1.5, reg=0.5, bias_reg=2.0), path)
    return path


def rated(path: Path, item_rows: list[int], history_rows: list[int]) -> np.ndarray:
    menu = {
        "item_row": np.asarray(item_rows),
        "query_index": np.zeros(len(item_rows), np.int64),
        "history_row": np.asarray([history_rows]),
        "history_value": np.asarray([[5.0, 1.0]], np.float32),
        "history_mask": np.ones((1, 2), np.bool_),
    }
    return np.asarray(open_session(path).run(["score"], menu)[0])


def test_a_rating_graph_knows_old_items_at_their_new_rows_and_takes_new_ones_for_the_mean(tmp_path: Path) -> None:
    old = rating_graph(tmp_path / "old.onnx")
    extend_graph(old, tmp_path / "new" / "new.onnx", MAP)
    before, after = rated(old, [0, 1, 2], [2, 0]), rated(tmp_path / "new/new.onnx", [0, 2, 3, 1, 4], [3, 0])
    assert_allclose(after[:3], before, atol=1e-5)
    assert_allclose(after[3:], np.full(2, before.mean()), atol=1e-5)


def test_a_network_and_a_sum_of_graphs_grow_alike(tmp_path: Path) -> None:
    dataset = replace(
        ranking_datasets.ranking_data().dataset, windows=ranking_datasets.ranking_data().dataset.windows[-1:]
    )
    settings: dict[str, int | float] = {"epochs": 1, "interact": 0.5, "like": 0.5, "rating": 0.5}
    ranker.train(dataset, tmp_path / "network.onnx", NETWORK, settings=settings)
    items = dataset.item_ids
    add_graphs([tmp_path / "network.onnx"] * 2, [0.7, 0.3], tmp_path / "sum.onnx")
    rows = RowMap.of(items, np.sort(np.append(items, [0, 1_000])))
    for name in ("network", "sum"):
        extend_graph(tmp_path / f"{name}.onnx", tmp_path / f"{name}-more.onnx", rows)
        tables = [
            constant.dims[0]
            for constant in onnx.load(tmp_path / f"{name}-more.onnx").graph.initializer
            if constant.dims
        ]
        assert len(items) + 2 in tables
        assert len(items) not in tables


def test_a_graph_whose_tables_are_not_found_is_refused(tmp_path: Path) -> None:
    model = onnx.load(rating_graph(tmp_path / "old.onnx"))
    for constant in model.graph.initializer:
        table = numpy_helper.to_array(constant)
        if table.ndim and len(table) == 3:  # as if each table had a row more than there are items
            constant.CopyFrom(numpy_helper.from_array(np.concatenate([table, table[:1]]), constant.name))
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ContractBroken, match="old items differ by"):
        extend_graph(tmp_path / "odd.onnx", tmp_path / "more.onnx", MAP)


# Files of the bundle, and the code that makes them

KNOWN = ("catalogue/item_ids.npy", "vector/index.hnsw", "rank/ranker.onnx", "report/all.json")


@pytest.mark.parametrize("folder", ["catalogue", "gateway", "vector", "two_tower", "content", "rank", "report", "new"])
def test_a_file_of_which_nothing_is_known_is_refused_whatever_folder_it_is_in(tmp_path: Path, folder: str) -> None:
    files = dict.fromkeys([*KNOWN, f"{folder}/future.npy", "golden/future.json"])
    bundle = SimpleNamespace(version="v1", manifest=SimpleNamespace(files=files))
    work = Indexing(bundle, None, ALSConfig(), ContentConfig(), TwoTowerConfig(), tmp_path, None)  # type: ignore[arg-type]
    for name in KNOWN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"v1 has {folder}/future.npy, which cannot be made for more items"):
        work._check_complete(tmp_path)
    del files[f"{folder}/future.npy"]
    work._check_complete(tmp_path)


def test_the_step_is_made_anew_when_any_code_changes_that_it_runs() -> None:
    used = {path.relative_to(ROOT).as_posix() for path in closure([source_file(Indexing)])}
    expected = {
        "gateway/bundle/state.py",
        "offline/indexing/rows.py",
        "offline/ranking/rankers/graph.py",
        "offline/ranking/samples/collection.py",
        "offline/recall/content.py",
        "offline/recall/two_tower/export.py",
        "recall_server/channels/als.py",
        "recsys/features/store.py",
    }
    assert expected - used == set()
    assert {"offline/indexing/job.py", "offline/workflow/config.py"} & used == set()


# Files of items


def shop(folder: Path) -> Path:
    folder.mkdir()
    (folder / "interactions.csv").write_text("user,item,timestamp\nann,lamp,1700000000\nbob,chair,1700000100\n")
    (folder / "items.csv").write_text("id,title,genres\nlamp,Lamp,Light\nchair,Chair,Seat|Wood\n")
    return folder


def test_items_of_a_file_come_behind_those_of_the_data_set(tmp_path: Path) -> None:
    more = tmp_path / "more.csv"
    more.write_text("id,title,genres,year,overview\ndesk,Desk,Wood,2001,made of oak\nlamp,Another lamp,Light,1999,\n")
    source = WithItems(open_dataset("shop", shop(tmp_path / "raw")), more)
    assert [len(rows) for rows in source.items(Findings())] == [2, 2]
    ingest(source, tmp_path / "tables")
    items = read_table(tmp_path / "tables", "items").to_pylist()
    assert [(item["item_key"], item["title"], item["year"]) for item in items] == [
        ("lamp", "Lamp", None),
        ("chair", "Chair", None),
        ("desk", "Desk", 2001),
    ]
    assert read_table(tmp_path / "tables", "item_texts")["overview"].to_pylist() == ["made of oak"]
    assert {name for name in source.fingerprint() if name.startswith("items: ")} == {"items: more.csv"}


def test_a_file_that_is_named_and_not_there_is_an_error_although_there_are_tables(tmp_path: Path) -> None:
    config = OfflineConfig(dataset="shop", data_dir=shop(tmp_path / "raw"), root=tmp_path / "data")
    first = prepare_tables(config.ingest_inputs)
    for name in ("items_file", "metadata_file"):
        with pytest.raises(DataMissing, match=f"name another with --{name.replace('_', '-')}"):
            prepare_tables(config.model_copy(update={name: tmp_path / "nowhere.csv"}).ingest_inputs)
    assert prepare_tables(config.ingest_inputs).key == first.key
