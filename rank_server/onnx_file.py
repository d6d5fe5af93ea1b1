"""The operations and constants of an ONNX file, read without the package `onnx`, which no server needs otherwise.

A file is a `ModelProto` of onnx.proto in the encoding of protocol buffers (protobuf.dev/programming-guides/encoding):
each field is a key, its number · 8 + its wire type, and a value. Fields that nobody asks for are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Attribute = float | int | bytes | NDArray[np.float32] | NDArray[np.int64] | tuple[bytes, ...] | None

_FLOAT, _INT64 = 1, 7
"""Of `TensorProto.DataType`."""
_VARINT, _BYTES = 0, 2
"""Wire types."""
_WIDTHS = {1: 8, 5: 4}
"""Bytes of a value by wire type, for the types of a fixed width."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a graph."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]
    """By name: numbers, texts and lists of them; None for tensors, graphs and types."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What a graph computes, but for the types of its values."""

    nodes: tuple[Node, ...]
    constants: dict[str, NDArray[Any]]
    """Initializers of float32 or int64 by name."""
    inputs: dict[str, tuple[int, ...]]
    """Shape of each input by name; 0 where a length is free."""

    @classmethod
    def read(cls, path: Path) -> OnnxFile:
        """Reads the graph of a model; raises ValueError where the bytes are no such message."""
        try:
            graph = _Message(_Message(path.read_bytes()).strings(7)[-1])
            constants = dict(map(_constant, graph.messages(5)))
            nodes = tuple(map(_node, graph.messages(1)))
            inputs = dict(map(_input, graph.messages(11)))
        except (IndexError, ValueError) as error:
            raise ValueError(f"{path}: no ONNX model ({error})") from error
        return cls(nodes, {name: value for name, value in constants.items() if value is not None}, inputs)


class _Message:
    """The fields of one message; IndexError for bytes that end too early, ValueError for others that are none."""

    def __init__(self, content: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        position = 0
        while position < len(content):
            key, position = _varint(content, position)
            value, position = _value(content, position, key & 7)
            self._fields.setdefault(key >> 3, []).append(value)

    def strings(self, number: int) -> list[bytes]:
        """The values of a field of texts, messages or bytes."""
        return [value for value in self._fields.get(number, []) if isinstance(value, bytes)]

    def texts(self, number: int) -> tuple[str, ...]:
        return tuple(value.decode() for value in self.strings(number))

    def messages(self, number: int) -> list[_Message]:
        return [_Message(value) for value in self.strings(number)]

    def floats(self, number: int) -> NDArray[np.float32]:
        """The values of a field of floats, one by one or packed."""
        return np.frombuffer(b"".join(self.strings(number)), "<f4").astype(np.float32)

    def ints(self, number: int) -> NDArray[np.int64]:
        """The values of a field of integers, one by one or packed; negative ones stand as their two's complement."""
        values: list[int] = []
        for value in self._fields.get(number, []):
            values += [value] if isinstance(value, int) else _packed(value)
        return np.asarray(values, np.uint64).astype(np.int64)


def _value(content: bytes, position: int, wire_type: int) -> tuple[int | bytes, int]:
    """The value at `position`, and the position after it."""
    if wire_type == _VARINT:
        return _varint(content, position)
    if wire_type == _BYTES:
        width, position = _varint(content, position)
    elif wire_type in _WIDTHS:
        width = _WIDTHS[wire_type]
    else:
        raise ValueError(f"wire type {wire_type} before byte {position}")
    if position + width > len(content):
        raise IndexError(f"{width} bytes from byte {position} on, found {len(content) - position}")
    return content[position : position + width], position + width


def _varint(content: bytes, position: int) -> tuple[int, int]:
    # Seven bits a byte, the lowest first; the eighth says that another byte follows.
    value = 0
    for shift in range(0, 64, 7):
        byte = content[position]
        value, position = value | (byte & 127) << shift, position + 1
        if byte < 128 and value < 1 << 64:
            return value, position
    raise ValueError(f"a number of more than 64 bits before byte {position}")


def _packed(content: bytes) -> list[int]:
    values, position = [], 0
    while position < len(content):
        value, position = _varint(content, position)
        values.append(value)
    return values


def _node(message: _Message) -> Node:
    attributes = {attribute.texts(1)[0]: _attribute(attribute) for attribute in message.messages(5)}
    return Node(message.texts(4)[-1], message.texts(1), message.texts(2), attributes)


def _attribute(message: _Message) -> Attribute:
    # AttributeProto.type says which field holds the value.
    match int(message.ints(20)[-1]):
        case 1:
            return float(message.floats(2)[-1])
        case 2:
            return int(message.ints(3)[-1])
        case 3:
            return message.strings(4)[-1]
        case 6:
            return message.floats(7)
        case 7:
            return message.ints(8)
        case 8:
            return tuple(message.strings(9))
        case _:
            return None


def _constant(message: _Message) -> tuple[str, NDArray[Any] | None]:
    # TensorProto: the values are raw bytes, or in the list of their type.
    kind, raw = int(message.ints(2)[-1]), message.strings(9)
    values: NDArray[Any]
    if kind == _FLOAT:
        values = np.frombuffer(raw[-1], "<f4") if raw else message.floats(4)
    elif kind == _INT64:
        values = np.frombuffer(raw[-1], "<i8") if raw else message.ints(7)
    else:
        return message.texts(8)[-1], None
    return message.texts(8)[-1], values.reshape(message.ints(1))


def _input(message: _Message) -> tuple[str, tuple[int, ...]]:
    # ValueInfoProto.type.tensor_type.shape.dim, each of which has a value, a name or nothing.
    found = [message]
    for field in (2, 1, 2, 1):
        found = [below for one in found for below in one.messages(field)]
    return message.texts(1)[-1], tuple(int(dim.ints(1)[-1]) if len(dim.ints(1)) else 0 for dim in found)
