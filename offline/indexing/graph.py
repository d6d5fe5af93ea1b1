"""A ranker's graph for a catalogue with further items: its tables by catalogue row grow, nothing else changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from offline.indexing.rows import RowMap
from offline.ranking.rankers.graph import PARITY
from rank_server.onnx_graph import open_session
from recsys.errors import ContractBroken

ROW_INPUTS = ("item_row", "history_row")
_CHECKED = 64
_HISTORY = 7


def extend_graph(source: Path, target: Path, rows: RowMap) -> None:
    """Writes the graph at `source` with tables for the rows of the new catalogue.

    A new item has the mean row of each table: the ranker's score for an item of which nothing else is known. A graph
    without inputs of rows is copied. Raises ContractBroken unless old items score as before, and new ones finitely.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    model = onnx.load(source)
    # A ranker that reads features only has no table to extend.
    if not {node.name for node in model.graph.input} & set(ROW_INPUTS):
        shutil.copyfile(source, target)
        return
    # Each table [items, …] is replaced by one whose old rows are moved and whose new rows are the mean of the old.
    tables = set(_tables(model, len(rows.after) - 1))
    for constant in model.graph.initializer:
        if constant.name in tables:
            table = numpy_helper.to_array(constant)
            constant.CopyFrom(numpy_helper.from_array(rows.moved(table, table.mean(axis=0)), constant.name))
    onnx.checker.check_model(model)
    onnx.save(model, target)
    _check(source, target, rows)


def _tables(model: onnx.ModelProto, n: int) -> Iterator[str]:
    """Names of the constants of `n` rows that an input of rows indexes.

    ONNX lists nodes in topological order, so one pass follows the row numbers from the inputs to every Gather.
    """
    constants = {constant.name: constant.dims for constant in model.graph.initializer}
    chosen = set(ROW_INPUTS)
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in constants:
            if node.input[1] in chosen and list(constants[node.input[0]])[:1] == [n]:
                yield node.input[0]
        elif chosen.intersection(node.input):
            chosen.update(node.output)  # rows may be sliced or reshaped before they are looked up


def _check(source: Path, target: Path, rows: RowMap) -> None:
    """Scores random inputs with both graphs. Raises ContractBroken where they differ, or where a score is no number."""
    before, after = open_session(source), open_session(target)
    rng, n = np.random.default_rng(0), len(rows.after) - 1
    features = next((node.shape[1] for node in before.get_inputs() if node.name == "features"), 0)
    # Old items: the same inputs, under the old row numbers and under the new ones.
    menu = _menu(rng, n, int(features))
    moved = {name: rows.after[value] if name in ROW_INPUTS else value for name, value in menu.items()}
    expected, found = _scores(before, menu), _scores(after, moved)
    difference = np.abs(found - expected).max(initial=0.0)
    # New items, in place of the scored ones: their scores must be finite.
    fresh = np.flatnonzero(rows.new)
    unknown = {**moved, "item_row": rng.choice(fresh, _CHECKED)} if len(fresh) else moved
    if not (difference <= PARITY and np.isfinite(_scores(after, unknown)).all()):
        raise ContractBroken(
            f"{source}: old items differ by {difference:.2g} in score once its tables have rows for new items, or "
            "new items have no finite score; train again with `python -m offline run`"
        )


def _menu(rng: np.random.Generator, n: int, features: int) -> dict[str, NDArray[Any]]:
    """Random inputs of two queries, one of them without a history."""
    mask = np.zeros((2, _HISTORY), np.bool_)
    mask[0] = True
    return {
        "features": rng.normal(size=(_CHECKED, features)).astype(np.float32),
        "item_row": rng.integers(0, n, _CHECKED),
        "query_index": np.sort(rng.integers(0, 2, _CHECKED)),
        "history_row": np.where(mask, rng.integers(0, n, mask.shape), 0),
        "history_value": np.where(mask, rng.integers(1, 6, mask.shape), 0).astype(np.float32),
        "history_age": np.where(mask, rng.uniform(0, 1e6, mask.shape), 0).astype(np.float32),
        "history_mask": mask,
    }


def _scores(session: Any, menu: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    feed = {}
    for node in session.get_inputs():
        value = menu[node.name]
        feed[node.name] = value.astype(np.float32) if node.type == "tensor(float)" else value
    return np.asarray(session.run(["score"], feed)[0], np.float32)
