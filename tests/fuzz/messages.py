"""Messages by number: valid ones of random content, and bytes that are nearly such messages.

The same seed and number give the same bytes, whatever was sent before.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS = (0, 1, -1, 2, 10, 255, 256, 501, 2_000, 2**31 - 1, -(2**31), 2**32 - 1, 2**53, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, 4.5, -1e6, 1e30, math.nan, math.inf, -math.inf, 1e-40)
TEXTS = ("", "0", "1", "caller", "film-1", "Drama", "x" * 129, "ключ", "\x00", "a\nb", "%s", "../..", "🎬" * 50)
_DEPTH, _REPEATS = 4, (0, 1, 1, 2, 3, 40)
_MAX_BYTES = 1 << 16
_FIELD = FieldDescriptor
_SMALL = (_FIELD.TYPE_INT32, _FIELD.TYPE_SINT32, _FIELD.TYPE_SFIXED32)
_SMALL_UNSIGNED = (_FIELD.TYPE_UINT32, _FIELD.TYPE_FIXED32)


def message_of(kind: type[Message], rng: random.Random, known: Sequence[int] = ()) -> Message:
    """A message with some of its fields set; integers are often among `known`, ids that mean something."""
    message = kind()
    _fill(message, rng, known, _DEPTH)
    return message


def _fill(message: Message, rng: random.Random, known: Sequence[int], depth: int) -> None:
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.5:
            continue
        if field.type == _FIELD.TYPE_MESSAGE:
            if depth:
                inner = getattr(message, field.name)
                for one in [inner.add() for _ in range(rng.choice(_REPEATS))] if field.is_repeated else [inner]:
                    _fill(one, rng, known, depth - 1)
                    if not field.is_repeated:
                        one.SetInParent()
        elif field.is_repeated:
            getattr(message, field.name).extend(_value(field, rng, known) for _ in range(rng.choice(_REPEATS)))
        else:
            setattr(message, field.name, _value(field, rng, known))


def _value(field: FieldDescriptor, rng: random.Random, known: Sequence[int]) -> Any:
    if field.type == _FIELD.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.type == _FIELD.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 7, 8, 16, 64, 800)))
    if field.type in (_FIELD.TYPE_FLOAT, _FIELD.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.type == _FIELD.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == _FIELD.TYPE_ENUM:
        return rng.choice((*field.enum_type.values_by_number, 99, -1))
    number = rng.choice(known) if known and rng.random() < 0.5 else rng.choice(INTEGERS)
    return _fitting(field, number)


def _fitting(field: FieldDescriptor, number: int) -> int:
    if field.type in _SMALL:
        return (number + 2**31) % 2**32 - 2**31
    if field.type in _SMALL_UNSIGNED:
        return number % 2**32
    if field.type in (_FIELD.TYPE_UINT64, _FIELD.TYPE_FIXED64):
        return number % 2**64
    return number


def _varint(number: int) -> bytes:
    text = bytearray()
    while number > 127:
        text.append(number & 127 | 128)
        number >>= 7
    return bytes([*text, number])


def _flip(body: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if body:
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)


def _cut(body: bytearray, rng: random.Random) -> None:
    del body[rng.randint(0, len(body)) :]


def _duplicate(body: bytearray, rng: random.Random) -> None:
    start = rng.randint(0, len(body))
    body += body[start : start + rng.randint(0, 64)] * rng.choice((1, 2, 50))


def _insert(body: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(body))
    body[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))


def _huge_length(body: bytearray, rng: random.Random) -> None:
    """A field that says that it is longer than everything."""
    body += _varint(rng.randint(1, 20) << 3 | 2) + _varint(rng.choice((2**20, 2**31 - 1, 2**32, 2**63)))


def _wrong_type(body: bytearray, rng: random.Random) -> None:
    body += _varint(rng.randint(1, 20) << 3 | rng.choice((0, 1, 3, 4, 5, 6, 7))) + rng.randbytes(8)


def _endless_varint(body: bytearray, rng: random.Random) -> None:
    body += _varint(rng.randint(1, 20) << 3) + b"\xff" * rng.choice((5, 10, 11, 200))


def _nest(body: bytearray, rng: random.Random) -> None:
    inner = bytes(body[:64])
    for _ in range(rng.choice((5, 50, 120))):
        inner = _varint(rng.randint(1, 8) << 3 | 2) + _varint(len(inner)) + inner
    body[:] = inner


def _break_text(body: bytearray, rng: random.Random) -> None:
    body += _varint(rng.randint(1, 8) << 3 | 2) + b"\x04\xff\xfe\xc0\x80"


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _cut, _duplicate, _insert, _huge_length, _wrong_type, _endless_varint, _nest, _break_text,
)  # fmt: skip


def mutated(body: bytes, rng: random.Random) -> bytes:
    """One to three mutations, one after the other; bounded in size."""
    changed = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(MUTATIONS)(changed, rng)
    return bytes(changed[:_MAX_BYTES])
