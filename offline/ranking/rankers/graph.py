"""ONNX graphs of rankers: written from PyTorch, and several added up in one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import compose, helper, numpy_helper
from torch import Tensor, nn

from rank_server.scoring import GRAPH_FILE, MENU

OPSET = 15
"""Of every ranker's graph, so that several can be joined into one."""
PARITY = 1e-4
"""Largest difference between a score of ONNX Runtime and that of what was exported."""


def export_graph(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    inputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> None:
    """Writes `module` as a graph from `inputs` to `score`; `axes` are those whose length is free."""
    with warnings.catch_warnings():
        # The exporter that needs no further package is the one that PyTorch calls deprecated.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["score"],
            dynamic_axes={name: dict(free) for name, free in axes.items()},
        )
    model = onnx.load(path)
    model.graph.name = "ranker"
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_sum(parts: Sequence[Path], weights: Sequence[float], folder: Path) -> None:
    """Writes the weighted sum of the rankers in the folders `parts` below `folder`; see `add_graphs`."""
    add_graphs([part / GRAPH_FILE for part in parts], weights, folder / GRAPH_FILE)


def add_graphs(paths: Sequence[Path], weights: Sequence[float], path: Path) -> None:
    """Writes the graph whose score is the weighted sum of the scores of the graphs at `paths`; inputs are shared.

    An input that parts declare in different types is declared as the first one does, and cast for the others.
    """
    parts = [
        compose.add_prefix(onnx.load(one), f"part{number}/", rename_inputs=False, rename_outputs=True)
        for number, one in enumerate(paths)
    ]
    inputs = {node.name: node for part in reversed(parts) for node in part.graph.input}
    nodes = [node for number, part in enumerate(parts) for node in [*_casts(part, number, inputs), *part.graph.node]]
    constants = [constant for part in parts for constant in part.graph.initializer]
    for number, weight in enumerate(weights):
        constants.append(numpy_helper.from_array(np.asarray(weight, np.float32), f"weight{number}"))
        nodes.append(helper.make_node("Mul", [f"part{number}/score", f"weight{number}"], [f"weighted{number}"]))
    nodes.append(helper.make_node("Sum", [f"weighted{number}" for number in range(len(parts))], ["score"]))
    score = helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["candidates"])
    ordered = [inputs[name] for name in MENU if name in inputs]
    graph = helper.make_graph(nodes, "ranker", ordered, [score], constants)
    opsets = {opset.domain: opset.version for part in parts for opset in part.opset_import}
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())],
        ir_version=min(part.ir_version for part in parts),
    )
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _casts(part: onnx.ModelProto, number: int, inputs: Mapping[str, onnx.ValueInfoProto]) -> list[onnx.NodeProto]:
    """Nodes that turn shared inputs into the types that `part` declares; it is changed to read what they make."""
    casts = []
    for node in part.graph.input:
        wanted = node.type.tensor_type.elem_type
        if wanted == inputs[node.name].type.tensor_type.elem_type:
            continue
        name = f"part{number}/{node.name}"
        casts.append(helper.make_node("Cast", [node.name], [name], to=wanted))
        for reader in part.graph.node:
            reader.input[:] = [name if read == node.name else read for read in reader.input]
    return casts
