"""From LightGBM's trees to the ONNX graph that the rank server runs, with a check that both score alike.

    score = sum of the trees' leaves + base weight · base column

The converter writes the trees as one TreeEnsembleRegressor of the ONNX-ML operators; the base is added after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import onnx
from numpy.typing import NDArray
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from offline.ranking.rankers.graph import OPSET, PARITY
from rank_server.onnx_graph import open_session
from recsys.errors import ContractBroken


@dataclass(frozen=True, slots=True)
class Base:
    """What the trees correct: weight · the feature in this column."""

    column: int
    weight: float


def export_onnx(booster: lgb.Booster, path: Path, *, base: Base, probe: NDArray[np.float32]) -> float:
    """Writes the graph `features[n, F]` → `score[n]`, the trees plus `base`; returns the largest difference to
    LightGBM on `probe`.

    Raises ContractBroken where it is above `PARITY`.
    """
    # Convert and add the base.
    inputs = [("features", FloatTensorType([None, booster.num_feature()]))]
    model = convert_lightgbm(with_single_precision(booster), initial_types=inputs, target_opset=OPSET)
    onnx.save(_with_base(model, base), path)
    # Compare with the trees as they were trained: double-precision thresholds, and the base added in double precision.
    expected = np.asarray(booster.predict(probe), np.float64) + base.weight * probe[:, base.column].astype(np.float64)
    found = open_session(path).run(["score"], {"features": probe})[0]
    difference = float(np.abs(found - expected).max(initial=0.0)) if found.shape == expected.shape else np.inf
    if difference > PARITY:
        raise ContractBroken(
            f"{path}: ONNX Runtime's scores {found.shape} differ from LightGBM's {expected.shape} by {difference:.2g}, "
            f"allowed is {PARITY:.0e}; use the pinned versions of onnxmltools and onnxruntime"
        )
    return difference


def with_single_precision(booster: lgb.Booster) -> lgb.Booster:
    """The same trees with every threshold rounded down to single precision.

    ONNX keeps thresholds as float32. Rounded to the nearest, one that lies between two neighbouring float32 values may
    land on the upper one and send it the other way; rounded down, it decides every float32 feature as before.
    """
    # Without the sizes of the trees' texts, which change, LightGBM reads tree by tree.
    lines = [line for line in booster.model_to_string().split("\n") if not line.startswith("tree_sizes=")]
    text = "\n".join(_rounded_down(line) if line.startswith("threshold=") else line for line in lines)
    return lgb.Booster(model_str=text)


def _rounded_down(line: str) -> str:
    # The cast rounds to the nearest; where that is above the exact threshold, take the next float32 below.
    exact = np.asarray(line.removeprefix("threshold=").split(), np.float64)
    single = exact.astype(np.float32)
    above = single.astype(np.float64) > exact
    single[above] = np.nextafter(single[above], np.float32(-np.inf))
    return "threshold=" + " ".join(repr(float(value)) for value in single)


def _with_base(model: onnx.ModelProto, base: Base) -> onnx.ModelProto:
    """Adds the base to the converter's output of shape [n, 1], and makes it `score[n]` (contract 12)."""
    # score = reshape(trees + base_weight · features[:, base_column]), from [n, 1] to [n].
    graph, trees = model.graph, model.graph.output[0].name
    constants: dict[str, NDArray[Any]] = {
        "base_column": np.asarray([base.column], np.int64),
        "base_weight": np.asarray(base.weight, np.float32),
        "flat": np.asarray([-1], np.int64),
    }
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    make_node = onnx.helper.make_node
    graph.node.extend(
        [
            make_node("Gather", ["features", "base_column"], ["base_value"], axis=1),
            make_node("Mul", ["base_value", "base_weight"], ["base"]),
            make_node("Add", [trees, "base"], ["score_column"]),
            make_node("Reshape", ["score_column", "flat"], ["score"]),
        ]
    )
    # The converter draws a random name and lists operator sets in any order; equal models are to be equal files.
    graph.name = "ranker"
    model.opset_import.sort(key=lambda opset: opset.domain)
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["n"]))
    onnx.checker.check_model(model)
    return model
