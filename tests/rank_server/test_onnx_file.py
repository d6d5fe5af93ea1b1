"""ONNX files are read as the package `onnx` reads them, and bytes that are none are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from rank_server.onnx_file import OnnxFile
from tests.rank_server.ensembles import WIDTH, chain, write


def test_nodes_and_constants_are_those_that_onnx_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "ranker.onnx", [chain(5), -2.0, chain(3)])
    expected, found = onnx.load(path).graph, OnnxFile.read(path)
    for node, one in zip(found.nodes, expected.node, strict=True):
        assert (node.operator, node.inputs, node.outputs) == (one.op_type, tuple(one.input), tuple(one.output))
        values = {entry.name: helper.get_attribute_value(entry) for entry in one.attribute}
        assert node.attributes.keys() == values.keys()
        for name, value in node.attributes.items():
            assert np.array_equal(value, values[name]), name
    assert {name: (value.dtype, value.tolist()) for name, value in found.constants.items()} == {
        entry.name: (numpy_helper.to_array(entry).dtype, numpy_helper.to_array(entry).tolist())
        for entry in expected.initializer
    }
    assert found.inputs == {"features": (0, WIDTH)}


def test_values_of_every_kind(tmp_path: Path) -> None:
    """Also those that our graphs do not have: negative numbers, packed lists, tensors that nobody asks for."""
    node = helper.make_node(
        "Some", ["a"], ["b"], f=-0.5, i=-3, s="text", floats=[1.5, -2.5], ints=[-1, 1 << 40], strings=["x", "y"]
    )
    node.attribute.append(helper.make_attribute("t", numpy_helper.from_array(np.zeros(2), "zeros")))
    constants = [
        helper.make_tensor("packed", TensorProto.INT64, [2, 1], [-5, 300]),
        helper.make_tensor("single", TensorProto.FLOAT, [2], [0.25, -1.0]),
        helper.make_tensor("double", TensorProto.DOUBLE, [1], [0.25]),
    ]
    path = tmp_path / "some.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "some", [], [], constants)).SerializeToString())
    found = OnnxFile.read(path)
    (attributes,) = [one.attributes for one in found.nodes]
    lists = {name: value.tolist() for name, value in attributes.items() if isinstance(value, np.ndarray)}
    assert lists == {"floats": [1.5, -2.5], "ints": [-1, 1 << 40]}
    others = {name: value for name, value in attributes.items() if name not in lists}
    assert others == {"f": -0.5, "i": -3, "s": b"text", "strings": (b"x", b"y"), "t": None}
    assert {name: value.tolist() for name, value in found.constants.items()} == {
        "packed": [[-5], [300]],
        "single": [0.25, -1.0],
    }


@given(st.data())
def test_damaged_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write(tmp_path_factory.mktemp("damage") / "ranker.onnx", [chain(3)])
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = OnnxFile.read(path)
    except ValueError:
        return
    assert all(isinstance(node.operator, str) for node in found.nodes)


@pytest.mark.parametrize("content", [b"", b"\x3a", b"\x3a\x7f", b"\x3a\x01\x0b", b"\xff" * 20])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"no\.onnx: no ONNX model"):
        OnnxFile.read(tmp_path / "no.onnx")
