"""Keys and numbers: one rule, the same as ingest's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from gateway.bundle.resolve import EMPTY_IDENTITIES, Identities, KeyTable, ResolvedId, check_key
from offline.dataset import ids
from recsys.catalogue import Catalogue, ItemTexts
from recsys.errors import InvalidRequest
from recsys.identity import FIRST_ASSIGNED, plain_number

KEYS = ["0", "7", "007", "+7", "-7", "7.0", " 7", "", "tt0111161", "9007199254740991", "9007199254740992", "٣", "1e3"]


@pytest.mark.parametrize("key", [key for key in KEYS if key])
def test_ingest_numbers_a_whole_column_by_the_rule_for_one_key(key: str) -> None:
    (number,) = ids.IdTable().numbers(pa.array([key])).tolist()
    assert number == (FIRST_ASSIGNED if plain_number(key) is None else plain_number(key))


def test_a_number_and_its_decimal_key_are_one_party_with_and_without_a_bundle() -> None:
    for table in (KeyTable(), EMPTY_IDENTITIES.users, KeyTable({"ada": FIRST_ASSIGNED})):
        assert table.of_number(7) == table.of_key("7") == ResolvedId("7", 7)


def test_other_keys_have_numbers_only_where_the_bundle_knows_them() -> None:
    table = KeyTable({"ada": FIRST_ASSIGNED, "grace": FIRST_ASSIGNED + 1})
    assert table.of_key("grace") == table.of_number(FIRST_ASSIGNED + 1) == ResolvedId("grace", FIRST_ASSIGNED + 1)
    assert table.of_key("007") == ResolvedId("007", None)
    assert table.of_number(FIRST_ASSIGNED + 2) is None
    assert table.of_number(-1) is None


def test_item_keys_come_with_the_catalogue() -> None:
    item_ids = np.asarray([3, FIRST_ASSIGNED], np.int64)
    catalogue = Catalogue(item_ids, np.zeros(2, np.int16), np.zeros((2, 0), np.bool_), ())
    items = Identities.of({}, catalogue, ItemTexts.of(["3", "tt1"], ["Three", "One"])).items
    assert items.of_key("tt1").id == FIRST_ASSIGNED
    assert items.of_key("3").id == 3
    assert items.of_key("tt2").id is None


@pytest.mark.parametrize(
    ("key", "complaint"),
    [("", "0 bytes"), ("k" * 257, "257 bytes"), ("é" * 129, "258 bytes"), ("a\nb", "control character")],
)
def test_unusable_keys_are_refused_by_field(key: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=f"user_key: .*{complaint}"):
        check_key(key, "user_key")


def test_the_longest_key_passes() -> None:
    assert check_key("é" * 128, "user_key") == "é" * 128
