"""What was known at a moment: everything up to it, and nothing that came later, whatever that is."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from offline.dataset.interactions import Dataset, Snapshot
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.ingest import ingest
from offline.recall.content import ContentConfig, item_vectors
from recsys.domain import EVENT_SEMANTICS, EventType

CUTOFF = 1_000_000_020
"""The moment of the last rating of `RATINGS`."""
RATINGS = "userId,movieId,rating,timestamp\n" + "".join(
    f"{1 + number % 3},{10 + number % 5},{0.5 + number % 10 / 2},{1_000_000_000 + number}\n" for number in range(21)
)
MOVIES = "movieId,title,genres\n" + "".join(
    f'{item},"Film {item} ({1970 + item})",{genres}\n'
    for item, genres in zip(range(10, 15), ("Drama", "Comedy", "Drama|War", "War", "Drama"), strict=True)
)
TAGS = "userId,movieId,tag,timestamp\n1,10,dark,1000000003\n2,12,dark,1000000004\n"
LINKS = "movieId,imdbId,tmdbId\n10,0114709,862\n"

FUTURE_RATINGS = "".join(f"{user},{item},5.0,{CUTOFF + 1}\n" for user in (1, 2, 99) for item in (10, 14, 77))
FUTURE_MOVIES = '77,"Absurd (2001)",Absurdity|Drama\n78,"Never Seen (1950)",Comedy|Noir\n'
FUTURE_TAGS = f"99,77,absurd,{CUTOFF + 1}\n1,78,unseen,{CUTOFF + 1}\n" + "".join(
    f"98,{item},{tag},{CUTOFF + 2}\n" for item, tag in ((10, "late"), (11, "late"), (13, "dark"), (11, "absurd"))
)
"""On new and on known items; "late" is on two of the latter, since a tag of one item alone describes nothing."""
FUTURE_LINKS = "77,0000077,77\n"


def _load(folder: Path, shipped: SimpleNamespace, **texts: str) -> Dataset:
    files = {f"{name}.csv": text.encode() for name, text in texts.items()}
    raw = shipped.write_folder(folder / "raw", files)
    ingest(open_dataset("ml-latest-small", raw), folder / "tables")
    return Dataset.load("ml-latest-small", folder / "tables")


@pytest.fixture
def known(tmp_path: Path, shipped: SimpleNamespace) -> Dataset:
    return _load(tmp_path / "known", shipped, ratings=RATINGS, movies=MOVIES, tags=TAGS, links=LINKS)


@pytest.fixture
def haunted(tmp_path: Path, shipped: SimpleNamespace) -> Dataset:
    """The same with a future of absurd ratings, items, genres, users, tags and links."""
    return _load(
        tmp_path / "haunted",
        shipped,
        ratings=RATINGS + FUTURE_RATINGS,
        movies=MOVIES + FUTURE_MOVIES,
        tags=TAGS + FUTURE_TAGS,
        links=LINKS + FUTURE_LINKS,
    )


def _assert_same(found: object, expected: object) -> None:
    """Equal field by field, arrays element by element and of one type."""
    for field in fields(expected):  # type: ignore[arg-type]
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if hasattr(other, "__dataclass_fields__"):
            _assert_same(one, other)
        else:
            assert np.asarray(one).dtype == np.asarray(other).dtype, field.name
            np.testing.assert_array_equal(one, other, err_msg=field.name)


def test_the_future_is_there(known: Dataset, haunted: Dataset) -> None:
    assert len(haunted.interactions) == len(known.interactions) + 9
    assert haunted.items.item_ids.tolist() == [10, 11, 12, 13, 14, 77, 78]


@pytest.mark.parametrize("cutoff", [CUTOFF, CUTOFF - 7])
def test_a_snapshot_does_not_know_the_future(known: Dataset, haunted: Dataset, cutoff: int) -> None:
    expected, found = known.snapshot(cutoff), haunted.snapshot(cutoff)
    _assert_same(found, expected)
    _assert_same(found.events, expected.events)
    _assert_same(found.catalogue, expected.catalogue)
    _assert_same(found.texts, expected.texts)


@pytest.mark.parametrize("cutoff", [CUTOFF, CUTOFF - 7])
def test_what_describes_items_does_not_know_the_future(
    known: Dataset, haunted: Dataset, tmp_path: Path, cutoff: int
) -> None:
    def described(snapshot: Snapshot, world: str) -> NDArray[np.float32]:
        return item_vectors(snapshot, ContentConfig(), tables=tmp_path / world / "tables")

    expected, found = described(known.snapshot(cutoff), "known"), described(haunted.snapshot(cutoff), "haunted")
    np.testing.assert_array_equal(found, expected)
    untagged = item_vectors(known.snapshot(cutoff), ContentConfig())
    assert untagged.shape[1] < expected.shape[1], "what is compared has columns of tags"
    later = described(replace(haunted.snapshot(cutoff), cutoff=CUTOFF + 2), "haunted")
    assert later.shape[1] > expected.shape[1], "the tags of the future would add to them"


def test_a_snapshot_holds_everything_up_to_the_cutoff(known: Dataset) -> None:
    snapshot = known.snapshot(CUTOFF)
    assert len(snapshot.item_ids) == 21
    assert snapshot.user_ids.tolist() == [1, 2, 3]
    assert snapshot.history(3).timestamps[-1] == CUTOFF
    assert known.snapshot(CUTOFF - 1).history(3).timestamps[-1] == CUTOFF - 3
    assert len(snapshot.history(4)) == 0


def test_snapshots_are_kept_as_far_as_memory_allows(known: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offline.dataset.interactions.KEPT_EVENTS", 30)
    whole, early = known.snapshot(CUTOFF), known.snapshot(CUTOFF - 14)
    assert known.snapshot(CUTOFF) is whole
    assert known.snapshot(CUTOFF - 14) is early, "21 and 7 events are within 30"
    known.snapshot(CUTOFF - 10)
    assert known.snapshot(CUTOFF - 14) is early, "of 21, 7 and 11 events, the 21 were not asked for lately"
    again = known.snapshot(CUTOFF)
    assert again is not whole
    _assert_same(again, whole)


def test_the_digest_sees_other_events_another_order_and_another_cutoff(known: Dataset) -> None:
    events = known.interactions
    swapped = events.take(np.asarray([1, 0, *range(2, len(events))]))
    later = replace(events, timestamps=events.timestamps + np.asarray([*[0] * 20, 5]))
    columns = ("user_ids", "item_ids", "types", "values")
    others = [replace(events, **{name: getattr(events, name)[::-1].copy()}) for name in columns[:2]]
    others += [
        replace(events, **{name: getattr(events, name) + getattr(events, name).dtype.type(1)}) for name in columns[2:]
    ]
    digests = [replace(known, interactions=changed).digest(CUTOFF) for changed in (events, swapped, later, *others)]
    assert len({*digests, known.digest(CUTOFF - 1)}) == 8
    assert known.digest(CUTOFF - 1) == replace(known, interactions=later).digest(CUTOFF - 1), "the future is not in it"


def test_the_last_of_several_ratings_counts(haunted: Dataset) -> None:
    """Users 1 to 3 rate each of five items once or twice, and what has another type is no rating."""
    snapshot = haunted.snapshot(CUTOFF)
    types = np.where(np.arange(len(snapshot.types)) == 0, EventType.CLICK, EventType.RATING).astype(np.int8)
    events = replace(snapshot, types=types).events
    [first] = np.flatnonzero(snapshot.item_ids[:7] == snapshot.item_ids[0])[1:]
    assert events.timestamps[0] == snapshot.timestamps[0], "the click stays"
    assert snapshot.timestamps[first] in events.timestamps, "and so does the rating after it"
    pairs = list(zip(events.user_rows.tolist(), events.item_rows.tolist(), strict=True))
    assert len(pairs) == len(set(pairs)) + 1
    assert len(pairs) < len(types)


def test_an_item_is_there_from_its_first_event_on(known: Dataset) -> None:
    assert known.items.available_from.tolist() == [1_000_000_000 + number for number in range(5)]
    early = known.snapshot(1_000_000_001)
    assert early.items.item_ids.tolist() == [10, 11]
    assert early.items.genre_names == ("Comedy", "Drama")
    assert early.items.genres.tolist() == [[False, True], [True, False]]


def test_an_item_without_events_is_there_at_the_end(haunted: Dataset) -> None:
    end = int(haunted.interactions.timestamps[-1])
    assert haunted.items.available_from[haunted.items.item_ids == 78].tolist() == [end]
    assert 78 in haunted.snapshot(end).items.item_ids


def test_training_events_are_what_the_histories_serve(haunted: Dataset) -> None:
    snapshot = haunted.snapshot(CUTOFF + 1)
    for row, user_id in enumerate(snapshot.user_ids.tolist()):
        sequence = snapshot.history(user_id).sequence()
        span = slice(*snapshot.events.indptr[row : row + 2].tolist())
        assert snapshot.catalogue.item_ids[snapshot.events.item_rows[span]].tolist() == sequence.item_ids.tolist()
        assert snapshot.events.timestamps[span].tolist() == sequence.timestamps.tolist()
        np.testing.assert_array_equal(snapshot.events.values[span], sequence.values)


def test_every_event_type_enters_training_as_its_meaning_says(known: Dataset) -> None:
    snapshot = known.snapshot(CUTOFF)
    kinds = np.asarray([kind.value for kind in EventType], np.int8)
    types = np.resize(kinds, len(snapshot.types))
    changed = Snapshot(
        snapshot.dataset,
        snapshot.cutoff,
        snapshot.items,
        snapshot.user_ids,
        snapshot.indptr,
        snapshot.item_ids,
        snapshot.timestamps,
        types,
        snapshot.values,
    )
    for row, user_id in enumerate(changed.user_ids.tolist()):
        span = slice(*changed.events.indptr[row : row + 2].tolist())
        sequence = changed.history(user_id).sequence()
        assert changed.events.timestamps[span].tolist() == sequence.timestamps.tolist()
        assert changed.events.weights[span].tolist() == pytest.approx(
            [EVENT_SEMANTICS[EventType(kind)].weight for kind in sequence.types.tolist()]
        )
