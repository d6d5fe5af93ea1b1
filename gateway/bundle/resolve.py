"""Between keys and ids of users and items, by the rule that `ingest` follows as well.

A key that is a plain decimal integer in [0, 2^53) - no sign, no leading zero - is its number. Other keys have numbers
from 2^53 up, which only the bundle knows. So user 7 and user "7" are the same, in every bundle and without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recsys.catalogue import Catalogue, ItemTexts
from recsys.errors import InvalidRequest
from recsys.identity import FIRST_ASSIGNED, MAX_KEY_BYTES, plain_number


def check_key(key: str, field: str) -> str:
    """Returns the key; raises InvalidRequest if it is empty, too long or contains a control character."""
    size = len(key.encode("utf-8"))
    if not 1 <= size <= MAX_KEY_BYTES:
        raise InvalidRequest(f"{field}: a key of {size} bytes; expected 1 to {MAX_KEY_BYTES} bytes of UTF-8")
    if any(character < " " or character == "\x7f" for character in key):
        raise InvalidRequest(f"{field}: {key!r} contains a control character; send the key as in the data")
    return key


@dataclass(frozen=True, slots=True)
class ResolvedId:
    """A user or an item: its canonical key, and its number where one is known."""

    key: str
    id: int | None


class KeyTable:
    """Keys that are not numbers themselves, and their numbers, in both directions."""

    def __init__(self, numbers: Mapping[str, int] | None = None) -> None:
        """`numbers`: number from 2^53 up, by key."""
        self._numbers = dict(numbers or {})
        self._keys = {number: key for key, number in self._numbers.items()}

    def of_key(self, key: str) -> ResolvedId:
        """The user or item with this key; its id is None if neither the rule nor the bundle gives it a number."""
        number = plain_number(key)
        return ResolvedId(key, self._numbers.get(key) if number is None else number)

    def of_number(self, number: int) -> ResolvedId | None:
        """The user or item with this number; None if it is negative, or unknown from 2^53 up."""
        if 0 <= number < FIRST_ASSIGNED:
            return ResolvedId(str(number), number)
        key = self._keys.get(number)
        return None if key is None else ResolvedId(key, number)


@dataclass(frozen=True, slots=True)
class Identities:
    """Keys and numbers of one bundle."""

    users: KeyTable
    items: KeyTable

    @classmethod
    def of(cls, user_keys: Mapping[str, int], catalogue: Catalogue, texts: ItemTexts) -> Identities:
        """The tables of a bundle; item keys come with the catalogue."""
        return cls(KeyTable(user_keys), KeyTable(_assigned(zip(texts.keys, catalogue.item_ids.tolist(), strict=True))))


def _assigned(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    return {key: number for key, number in pairs if number >= FIRST_ASSIGNED}


EMPTY_IDENTITIES = Identities(KeyTable(), KeyTable())
"""What is known without a bundle: keys that are numbers."""
