"""From LightGBM's trees to the ONNX graph that the rank server runs, with a proof that both score alike."""

from __future__ import annotations

from pathlib import Path

import lightgbm as lgb
import numpy as np
import onnx
from numpy.typing import NDArray
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from rank_server.scoring import open_session
from recsys.errors import ContractBroken

PARITY = 1e-4
"""Largest difference between a score of ONNX Runtime and LightGBM's."""
OPSET = 15


def export_onnx(booster: lgb.Booster, path: Path, *, probe: NDArray[np.float32]) -> float:
    """Writes the graph `features[n, F]` → `score[n]`; returns the largest difference to LightGBM on `probe`.

    Raises ContractBroken where it is above `PARITY`.
    """
    inputs = [("features", FloatTensorType([None, booster.num_feature()]))]
    model = convert_lightgbm(with_single_precision(booster), initial_types=inputs, target_opset=OPSET)
    onnx.save(_with_flat_score(model), path)
    expected = np.asarray(booster.predict(probe), np.float64)
    found = open_session(path).run(["score"], {"features": probe})[0]
    difference = float(np.abs(found - expected).max(initial=0.0))
    if found.shape != expected.shape or difference > PARITY:
        raise ContractBroken(
            f"{path}: ONNX Runtime scores {found.shape} differ from LightGBM's {expected.shape} by {difference:.2g}, "
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
    exact = np.asarray(line.removeprefix("threshold=").split(), np.float64)
    single = exact.astype(np.float32)
    above = single.astype(np.float64) > exact
    single[above] = np.nextafter(single[above], np.float32(-np.inf))
    return "threshold=" + " ".join(repr(float(value)) for value in single)


def _with_flat_score(model: onnx.ModelProto) -> onnx.ModelProto:
    """The converter's output has shape [n, 1]; contract 12 wants `score[n]`."""
    graph = model.graph
    inner = graph.output[0].name
    shape = onnx.numpy_helper.from_array(np.asarray([-1], np.int64), "flat_shape")
    graph.initializer.append(shape)
    graph.node.append(onnx.helper.make_node("Reshape", [inner, "flat_shape"], ["score"]))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["n"]))
    onnx.checker.check_model(model)
    return model
