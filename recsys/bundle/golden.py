"""Golden requests: answers recorded when a bundle is published, which every process repeats before it serves.

`golden/<role>.json` holds queries and the answers expected. Other CPUs and library versions round differently, so
scores may differ by 1e-4 (absolutely or relatively), and items whose scores are that close may swap positions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.domain import Candidates, History, Ids, ItemFilter, RankQuery, RecallQuery, RecallResult, Scores
from recsys.errors import BundleDamaged, BundleMismatch

TOLERANCE = 1e-4
"""Largest difference of two scores that count as equal, absolutely or relative to the expected one."""

Json = Any
Recall = Callable[[Sequence[RecallQuery]], Sequence[RecallResult]]
Rank = Callable[[Sequence[RankQuery]], Sequence[Scores]]


def golden_file(role: str) -> str:
    """Where the golden requests of `role` are, relative to the bundle."""
    return f"golden/{role}.json"


def record(folder: Path, role: str, queries: Sequence[Json], answers: Sequence[Json]) -> None:
    """Writes any JSON queries with their answers; `record_recall` and `record_rank` write ours."""
    path = folder / golden_file(role)
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = [{"query": query, "answer": answer} for query, answer in zip(queries, answers, strict=True)]
    text = json.dumps({"role": role, "requests": pairs}, allow_nan=False, separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")


def recorded(folder: Path, role: str) -> list[tuple[Json, Json]]:
    """Queries and expected answers as `record` wrote them.

    Raises:
        BundleMismatch: the bundle has none for this role.
        BundleDamaged: the file cannot be read.
    """
    path = folder / golden_file(role)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(pair["query"], pair["answer"]) for pair in content["requests"]]
    except FileNotFoundError:
        raise BundleMismatch(f"{path}: no golden requests for role {role!r}; publish the bundle again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BundleDamaged(f"{path}: not golden requests ({error!r}); publish the bundle again") from error
    if content.get("role") != role or not pairs:
        raise BundleMismatch(
            f"{path}: {len(pairs)} golden requests for role {content.get('role')!r}, expected some for {role!r}; "
            "publish the bundle again"
        )
    return pairs


def record_recall(folder: Path, role: str, queries: Sequence[RecallQuery], recall: Recall) -> None:
    """Queries the channel and writes its answers."""
    answers = [{"item_ids": r.item_ids.tolist(), "scores": r.scores.tolist()} for r in recall(queries)]
    record(folder, role, [_recall_query_to_json(query) for query in queries], answers)


def record_rank(folder: Path, queries: Sequence[RankQuery], rank: Rank) -> None:
    """Queries the ranker and writes its answers."""
    answers = [{"scores": scores.tolist()} for scores in rank(queries)]
    record(folder, "rank", [_rank_query_to_json(query) for query in queries], answers)


def check_recall(folder: Path, role: str, recall: Recall) -> None:
    """Repeats the golden requests on the channel; raises BundleMismatch, which names the first difference."""
    pairs = recorded(folder, role)
    results = recall([_recall_query_from_json(query) for query, _ in pairs])
    for position, ((_, answer), found) in enumerate(zip(pairs, results, strict=True)):
        expected = RecallResult(_ids(answer["item_ids"]), _floats(answer["scores"]))
        where = f"{folder / golden_file(role)}: request {position}"
        _check_scores(where, expected.scores, found.scores)
        _check_ids(where, expected, found)


def recall_queries(folder: Path, role: str) -> list[RecallQuery]:
    """The queries of a channel's golden requests; raises as `recorded` does."""
    return [_recall_query_from_json(query) for query, _ in recorded(folder, role)]


def rank_queries(folder: Path) -> list[RankQuery]:
    """The queries of the ranker's golden requests; raises as `recorded` does."""
    return [_rank_query_from_json(query) for query, _ in recorded(folder, "rank")]


def check_rank(folder: Path, rank: Rank) -> None:
    """Repeats the golden requests on the ranker; raises BundleMismatch, which names the first difference."""
    pairs = recorded(folder, "rank")
    results = rank([_rank_query_from_json(query) for query, _ in pairs])
    for position, ((_, answer), found) in enumerate(zip(pairs, results, strict=True)):
        _check_scores(f"{folder / golden_file('rank')}: request {position}", _floats(answer["scores"]), found)


def _check_scores(where: str, expected: Scores, found: Scores) -> None:
    if len(found) != len(expected):
        raise _mismatch(f"{where}: {len(found)} scores, expected {len(expected)}")
    wrong = ~_close(expected, found)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise _mismatch(f"{where}: score {first} is {found[first]:.6g}, expected {expected[first]:.6g}")


def _check_ids(where: str, expected: RecallResult, found: RecallResult) -> None:
    """Positions may hold other items only if those are near-ties: in the list, or just beyond its end."""
    position_of = {item_id: position for position, item_id in enumerate(expected.item_ids.tolist())}
    for position in np.flatnonzero(expected.item_ids != found.item_ids).tolist():
        item_id = int(found.item_ids[position])
        counterpart = expected.scores[position_of.get(item_id, len(expected) - 1)]
        if not _close(counterpart, found.scores[position]):
            raise _mismatch(
                f"{where}: item {item_id} with score {found.scores[position]:.6g} at position {position + 1}, "
                f"expected item {expected.item_ids[position]}, and {counterpart:.6g} for item {item_id} at most"
            )


def _close(expected: Scores | np.float32, found: Scores | np.float32) -> np.ndarray[Any, np.dtype[np.bool_]]:
    difference = np.abs(np.asarray(expected, np.float64) - np.asarray(found, np.float64))
    return np.asarray(difference <= TOLERANCE * np.maximum(1.0, np.abs(expected)))


def _mismatch(message: str) -> BundleMismatch:
    return BundleMismatch(
        f"{message}; this machine's libraries or this version of the software answer differently from the ones that "
        "published the bundle: publish it again from here, or install what it was published with"
    )


def _ids(values: Json) -> Ids:
    return np.asarray(values, np.int64)


def _floats(values: Json) -> Scores:
    return np.asarray([math.nan if value is None else value for value in values], np.float32)


def _history_to_json(history: History) -> Json:
    return {
        "item_ids": history.item_ids.tolist(),
        "timestamps": history.timestamps.tolist(),
        "types": history.types.tolist(),
        "values": [None if math.isnan(value) else value for value in history.values.tolist()],
    }


def _history_from_json(content: Json) -> History:
    times, types = _ids(content["timestamps"]), np.asarray(content["types"], np.int8)
    return History(_ids(content["item_ids"]), times, types, _floats(content["values"]))


def _recall_query_to_json(query: RecallQuery) -> Json:
    return {
        "history": _history_to_json(query.history),
        "as_of": query.as_of,
        "count": query.count,
        "exclude_item_ids": query.exclude_item_ids.tolist(),
        "filter": {
            "genres_any": query.item_filter.genres_any,
            "genres_none": query.item_filter.genres_none,
            "min_year": query.item_filter.min_year,
            "max_year": query.item_filter.max_year,
        },
        "preferred_genres": query.preferred_genres,
    }


def _recall_query_from_json(content: Json) -> RecallQuery:
    wanted = content["filter"]
    return RecallQuery(
        _history_from_json(content["history"]),
        content["as_of"],
        content["count"],
        _ids(content["exclude_item_ids"]),
        ItemFilter(tuple(wanted["genres_any"]), tuple(wanted["genres_none"]), wanted["min_year"], wanted["max_year"]),
        tuple(content["preferred_genres"]),
    )


def _rank_query_to_json(query: RankQuery) -> Json:
    candidates = query.candidates
    returned = candidates.ranks > 0
    return {
        "history": _history_to_json(query.history),
        "as_of": query.as_of,
        "item_ids": candidates.item_ids.tolist(),
        "channels": candidates.channels,
        "scores": np.where(returned, candidates.scores, np.float32(0)).tolist(),
        "ranks": candidates.ranks.tolist(),
        "preferred_genres": query.preferred_genres,
    }


def _rank_query_from_json(content: Json) -> RankQuery:
    ids, channels = _ids(content["item_ids"]), tuple(content["channels"])
    shape = (len(ids), len(channels))
    candidates = Candidates.without_seeds(
        ids,
        channels,
        np.asarray(content["scores"], np.float32).reshape(shape),
        np.asarray(content["ranks"], np.int32).reshape(shape),
    )
    history = _history_from_json(content["history"])
    return RankQuery(history, content["as_of"], candidates, tuple(content["preferred_genres"]))
