"""Reads a tree ensemble from its ONNX graph, as `offline/ranking/rankers/trees_export.py` writes it, into flat arrays.

    score = sum of the trees' leaves + base weight · base column

What else a graph may compute, and trees of more than `MAX_LEAVES` leaves, are left to ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rank_server.onnx_file import Attribute, Node, OnnxFile

MAX_LEAVES = 64
"""Of one tree: the bits of a word."""

_ONLY = {"n_targets": 1, "aggregate_function": b"SUM", "post_transform": b"NONE"}
"""Attributes of a TreeEnsembleRegressor with the only value that is understood; each may be absent."""
_NODE = (
    "treeids",
    "nodeids",
    "modes",
    "featureids",
    "values",
    "missing_value_tracks_true",
    "truenodeids",
    "falsenodeids",
)
_LEAF = ("treeids", "nodeids", "ids", "weights")
"""Columns of its two tables: the nodes of all trees, and the values of their leaves."""


class NotTrees(Exception):
    """The graph computes something else, or more; the message says what was found."""


@dataclass(frozen=True, slots=True)
class Trees:
    """An ensemble in the arrays of `recsys.kernels._trees.Ensemble`, which describes them."""

    column: NDArray[np.int32]
    missing: NDArray[np.float32]
    node_start: NDArray[np.int32]
    node_column: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left_leaves: NDArray[np.uint64]
    leaf_start: NDArray[np.int32]
    leaf_value: NDArray[np.float32]
    base_column: int
    base_weight: float
    width: int
    """Features of a row."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the graph at `path`; raises NotTrees."""
        try:
            file = OnnxFile.read(path)
        except ValueError as error:
            raise NotTrees(str(error)) from error
        graph = _Graph(file)
        # From the score back to the inputs; the base is a column that is gathered and multiplied.
        flat = graph.operation("score", "Reshape")
        total = graph.operation(flat.inputs[0], "Add")
        ensemble = graph.operation(total.inputs[0], "TreeEnsembleRegressor")
        base = graph.operation(total.inputs[1], "Mul")
        gather = graph.operation(base.inputs[0], "Gather")
        if list(file.inputs) != ["features"] or ensemble.inputs != ("features",) or gather.inputs[0] != "features":
            raise NotTrees(f"inputs {list(file.inputs)}, trees over {ensemble.inputs}, base {gather.inputs[0]}")
        column, weight, shape = (graph.number(node.inputs[1]) for node in (gather, base, flat))
        if gather.attributes != {"axis": 1} or shape != -1:
            raise NotTrees(f"a base along {gather.attributes}, a score of shape {shape}")
        width = file.inputs["features"][-1] if file.inputs["features"] else 0
        found = cls(**_Ensemble(ensemble).flatten(), base_column=int(column), base_weight=float(weight), width=width)
        if not 0 <= found.used_columns()[0] <= found.used_columns()[-1] < width:
            raise NotTrees(f"columns {found.used_columns().tolist()} of {width}")
        return found

    def arrays(self) -> dict[str, Any]:
        """The arguments of `Ensemble` for rows of the used columns only."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "width"}
        used = self.used_columns()
        column, base_column = np.searchsorted(used, self.column), np.searchsorted(used, self.base_column)
        return {**found, "column": column.astype(np.int32), "base_column": int(base_column)}

    def used_columns(self) -> NDArray[np.int64]:
        """Columns of the features that the score depends on, ascending."""
        return np.unique(np.append(self.column, self.base_column)).astype(np.int64)

    def probes(self, n: int) -> NDArray[np.float32]:
        """float32[n, width]: rows of values at a threshold, just above one, infinite or NaN; the same each time."""
        rng = np.random.default_rng(0)
        rows = rng.random((n, self.width), np.float32)
        tested, infinity = self.column[self.node_column], np.float32(np.inf)
        for column in np.unique(tested).tolist():
            at = self.threshold[tested == column]
            rows[:, column] = rng.choice([*at, *np.nextafter(at, infinity), infinity, -infinity, np.float32(np.nan)], n)
        rows[:, self.base_column] = rng.random(n, np.float32)
        return rows


class _Graph:
    """What made a value."""

    def __init__(self, file: OnnxFile) -> None:
        self._constants = file.constants
        self._made_by = {name: node for node in file.nodes for name in node.outputs}

    def operation(self, name: str, operator: str) -> Node:
        """The node whose output is called `name`, which has to be an `operator`; Identity is looked through."""
        node = self._made_by.get(name)
        while node is not None and node.operator == "Identity":
            node = self._made_by.get(node.inputs[0])
        if node is None or node.operator != operator:
            raise NotTrees(f"{name} is made by {node.operator if node else 'nothing'}, expected {operator}")
        return node

    def number(self, name: str) -> float:
        """The only element of a constant."""
        constant = self._constants.get(name)
        if constant is None or constant.size != 1:
            raise NotTrees(f"{name} is no constant of one element")
        return float(constant.item())


class _Ensemble:
    """The two tables of a TreeEnsembleRegressor, walked tree by tree."""

    def __init__(self, node: Node) -> None:
        attributes = {name: value for name, value in node.attributes.items() if name != "nodes_hitrates"}
        for name, only in _ONLY.items():
            if attributes.pop(name, only) != only:
                raise NotTrees(f"{name} is {node.attributes[name]!r}, expected {only!r}")
        self._trees: dict[int, dict[int, tuple[Any, ...]]] = {}
        for tree, number, *rest in _rows(attributes, "nodes", _NODE):
            self._trees.setdefault(tree, {})[number] = tuple(rest)
        self._leaves = {(tree, number): value for tree, number, _, value in _rows(attributes, "target", _LEAF)}
        if attributes:
            raise NotTrees(f"attributes {', '.join(sorted(attributes))}")
        # What the walk collects: columns by feature and stand-in for NaN, tests, values of leaves.
        self._columns: dict[tuple[int, float], int] = {}
        self._tests: list[tuple[int, float, int]] = []
        self._values: list[float] = []

    def flatten(self) -> dict[str, NDArray[Any]]:
        """The arrays of `Trees`, without the base."""
        starts = [(0, 0)]
        for tree, nodes in self._trees.items():
            self._walk(tree, _root(tree, nodes), depth=0, first_leaf=len(self._values))
            starts.append((len(self._tests), len(self._values)))
        lists = {
            ("column", np.int32): [feature for feature, _ in self._columns],
            ("missing", np.float32): [value for _, value in self._columns],
            ("node_start", np.int32): [test for test, _ in starts],
            ("node_column", np.int32): [column for column, _, _ in self._tests],
            ("threshold", np.float32): [threshold for _, threshold, _ in self._tests],
            ("left_leaves", np.uint64): [leaves for _, _, leaves in self._tests],
            ("leaf_start", np.int32): [value for _, value in starts],
            ("leaf_value", np.float32): self._values,
        }
        return {name: np.asarray(values, kind) for (name, kind), values in lists.items()}

    def _walk(self, tree: int, number: int, *, depth: int, first_leaf: int) -> None:
        """Collects what is at a node and below it, from left to right; leaves of the tree count from `first_leaf`."""
        n_leaves = len(self._values) - first_leaf
        if max(depth, n_leaves) >= MAX_LEAVES:
            raise NotTrees(f"tree {tree} has more than {MAX_LEAVES} leaves")
        mode, feature, threshold, missing_left, left, right = self._trees[tree].get(number, (None,) * 6)
        if mode == b"LEAF" and (tree, number) in self._leaves:
            self._values.append(self._leaves[tree, number])
        elif mode == b"BRANCH_LEQ" and np.isfinite(threshold):
            self._walk(tree, left, depth=depth + 1, first_leaf=first_leaf)
            left_leaves = (1 << len(self._values) - first_leaf) - (1 << n_leaves)
            # NaN is replaced by a value that goes the same way at every threshold.
            column = self._columns.setdefault((feature, -np.inf if missing_left else np.inf), len(self._columns))
            self._tests.append((column, threshold, left_leaves))
            self._walk(tree, right, depth=depth + 1, first_leaf=first_leaf)
        else:
            raise NotTrees(f"node {number} of tree {tree} is {mode} with threshold {threshold}")


def _root(tree: int, nodes: dict[int, tuple[Any, ...]]) -> int:
    """The node of a tree that is no other's child."""
    children = {child for mode, *_, left, right in nodes.values() if mode != b"LEAF" for child in (left, right)}
    roots = sorted(nodes.keys() - children)
    if len(roots) != 1:
        raise NotTrees(f"tree {tree} has {len(roots)} roots")
    return roots[0]


def _rows(attributes: dict[str, Attribute], table: str, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of a table whose columns are attributes, which are taken out of `attributes`."""
    columns: list[Sequence[Any]] = []
    for name in names:
        values = attributes.pop(f"{table}_{name}", None)
        if not isinstance(values, np.ndarray | tuple):
            raise NotTrees(f"{table}_{name} is {values!r}, expected a list")
        columns.append(values.tolist() if isinstance(values, np.ndarray) else values)
    if len(set(map(len, columns))) > 1:
        raise NotTrees(f"the columns of {table} have {sorted(set(map(len, columns)))} values")
    return zip(*columns, strict=True)
