"""Golden requests of the gateway's own files: a user's stored history, and popular items outside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.bundle.state import StoredHistories
from gateway.pipeline.fallback import Fallback
from recsys.bundle.golden import golden_file, record, recorded
from recsys.catalogue import Catalogue, ItemTexts
from recsys.domain import History, RecallQuery
from recsys.errors import BundleMismatch

ROLE = "gateway"
SHOWN = 10
"""Events and items per answer."""


def record_gateway(folder: Path, user_ids: Sequence[int]) -> None:
    """Writes the golden requests of `user_ids`, answered from the files below `folder`."""
    catalogue = Catalogue.load(folder)
    fallback = Fallback.open(folder, catalogue)
    texts, histories = ItemTexts.load(folder), StoredHistories.open(folder)
    answers = [_answer(histories, fallback, catalogue, texts, user_id=user_id) for user_id in user_ids]
    record(folder, ROLE, list(user_ids), answers)


def check_gateway(
    folder: Path, *, catalogue: Catalogue, texts: ItemTexts, histories: StoredHistories, fallback: Fallback
) -> None:
    """Repeats the golden requests on what was loaded from `folder`; raises BundleMismatch if an answer differs."""
    for user_id, expected in recorded(folder, ROLE):
        found = _answer(histories, fallback, catalogue, texts, user_id=user_id)
        wrong = [name for name in expected if found.get(name) != expected[name]]
        if wrong:
            raise BundleMismatch(
                f"{folder / golden_file(ROLE)}: user {user_id}: {wrong[0]} is {found.get(wrong[0])}, expected "
                f"{expected[wrong[0]]}; publish the bundle again"
            )


def _answer(
    histories: StoredHistories, fallback: Fallback, catalogue: Catalogue, texts: ItemTexts, *, user_id: int
) -> dict[str, Any]:
    history = histories.of(user_id)
    query = RecallQuery(History.empty(), 0, SHOWN, history.seen_item_ids())
    popular = fallback.recall(query).item_ids
    return {
        "events": len(history),
        "last_item_ids": history.item_ids[-SHOWN:].tolist(),
        "popular_item_ids": popular.tolist(),
        "popular_titles": [texts.titles[row] for row in catalogue.rows(popular)],
    }
