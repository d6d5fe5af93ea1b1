"""Tree ensembles as ONNX graphs, in the form in which the ranker's trees are exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 6
"""Features of a row."""


@dataclass(frozen=True)
class Split:
    """Rows go left where the feature is at most `threshold`, or NaN where `missing_left`."""

    feature: int
    threshold: float
    missing_left: bool
    left: Split | float
    right: Split | float


Tree = Split | float
"""A number is a leaf."""


def chain(leaves: int) -> Tree:
    """A tree that asks one thing after the other: its leaf is how many whole numbers below `leaves` are under x[0]."""
    tree: Tree = float(leaves - 1)
    for position in reversed(range(leaves - 1)):
        tree = Split(0, float(position), False, float(position), tree)
    return tree


def attributes_of(trees: Sequence[Tree]) -> dict[str, list[Any]]:
    """The two tables of a TreeEnsembleRegressor."""
    table: dict[str, list[Any]] = {
        name: []
        for name in (
            *("nodes_treeids", "nodes_nodeids", "nodes_modes", "nodes_featureids", "nodes_values"),
            *("nodes_missing_value_tracks_true", "nodes_truenodeids", "nodes_falsenodeids"),
            *("target_treeids", "target_nodeids", "target_ids", "target_weights"),
        )
    }
    for number, tree in enumerate(trees):
        _add(table, number, tree, node=0)
    return table


def _add(table: dict[str, list[Any]], number: int, tree: Tree, node: int) -> int:
    """Adds the rows of a tree whose root has the number `node`; returns the next free number."""
    row = len(table["nodes_nodeids"])
    leaf = isinstance(tree, float)
    for name, value in {
        "nodes_treeids": number,
        "nodes_nodeids": node,
        "nodes_modes": "LEAF" if leaf else "BRANCH_LEQ",
        "nodes_featureids": 0 if leaf else tree.feature,
        "nodes_values": 0.0 if leaf else tree.threshold,
        "nodes_missing_value_tracks_true": int(not leaf and tree.missing_left),
        "nodes_truenodeids": 0,
        "nodes_falsenodeids": 0,
    }.items():
        table[name].append(value)
    if leaf:
        for name, value in {"treeids": number, "nodeids": node, "ids": 0, "weights": tree}.items():
            table[f"target_{name}"].append(value)
        return node + 1
    table["nodes_truenodeids"][row] = node + 1
    right = _add(table, number, tree.left, node + 1)
    table["nodes_falsenodeids"][row] = right
    return _add(table, number, tree.right, right)


def write(
    path: Path,
    trees: Sequence[Tree],
    *,
    base_weight: float = 50.0,
    operators: Sequence[Any] = (),
    width: int = WIDTH,
    **changed: Any,
) -> Path:
    """Writes the graph over `width` features; the last is the base.

    `changed` replaces attributes of the ensemble, `operators` come after the score `raw`.
    """
    make = helper.make_node
    attributes = {"n_targets": 1, "post_transform": "NONE", **attributes_of(trees), **changed}
    nodes = [
        make("TreeEnsembleRegressor", ["features"], ["trees"], domain="ai.onnx.ml", **attributes),
        make("Gather", ["features", "base_column"], ["base_value"], axis=1),
        make("Mul", ["base_value", "base_weight"], ["base"]),
        make("Add", ["trees", "base"], ["score_column"]),
        make("Reshape", ["score_column", "flat"], ["raw" if operators else "score"]),
        *operators,
    ]
    constants = {
        "base_column": np.asarray([width - 1]),
        "base_weight": np.asarray(base_weight, np.float32),
        "flat": np.asarray([-1]),
    }
    graph = helper.make_graph(
        nodes,
        "ranker",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path
