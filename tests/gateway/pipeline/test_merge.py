"""Candidates are the union of what the channels returned; the kernel and the numpy form make the same of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pipeline.merge import blend_by_numpy, merge, merge_by_numpy
from recsys.domain import Candidates, RecallResult
from recsys.kernels import COMPILED

if COMPILED:
    from recsys.kernels import _merging

compiled = pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled")

IDS = st.lists(st.integers(-3, 8) | st.integers(-(2**63), 2**63 - 1), unique=True, max_size=12)


def result(item_ids: list[int], seed: int) -> RecallResult:
    """A channel's answer; every other one has seeds, some of them absent."""
    rng, n = np.random.default_rng(seed), len(item_ids)
    scores = np.sort(rng.normal(size=n).astype(np.float32))[::-1]
    if seed % 2:
        return RecallResult(np.asarray(item_ids, np.int64), scores)
    return RecallResult(np.asarray(item_ids, np.int64), scores, rng.integers(-5, 2**60, n), rng.random(n) < 0.5)


def everything(candidates: Candidates) -> list[object]:
    """All that candidates hold, to be compared to the bit."""
    arrays = (
        candidates.item_ids,
        candidates.scores,
        candidates.ranks,
        candidates.seed_item_ids,
        candidates.seed_present,
    )
    return [candidates.channels, *((array.dtype, array.shape, array.tobytes()) for array in arrays)]


@given(lists=st.lists(IDS, max_size=5), seed=st.integers(0, 1_000))
def test_both_forms_merge_alike(lists: list[list[int]], seed: int) -> None:
    results = {f"channel{number}": result(ids, seed + number) for number, ids in enumerate(lists)}
    assert everything(merge(results)) == everything(merge_by_numpy(results))


def test_each_item_keeps_what_every_channel_said() -> None:
    ids = [np.asarray(own, np.int64) for own in ([7, 3], [5, 7, 1])]
    scores = [np.asarray(own, np.float32) for own in ([0.5, 0.25], [3, 2, 1])]
    seeds, present = np.asarray([9, 0, 8], np.int64), np.asarray([True, False, True])
    merged = merge({"a": RecallResult(ids[0], scores[0]), "b": RecallResult(ids[1], scores[1], seeds, present)})
    assert (merged.channels, merged.item_ids.tolist()) == (("a", "b"), [1, 3, 5, 7])
    assert merged.ranks.tolist() == [[0, 3], [2, 0], [0, 1], [1, 2]]
    assert merged.scores.tolist() == [[0, 1], [0.25, 0], [0, 3], [0.5, 2]]
    assert merged.seed_item_ids.tolist() == [[0, 8], [0, 0], [0, 9], [0, 0]]
    assert merged.seed_present.tolist() == [[False, True], [False, False], [False, True], [False, False]]


@compiled
@given(
    ranks=st.lists(st.lists(st.integers(0, 300), min_size=3, max_size=3), max_size=20),
    weights=st.lists(st.floats(0, 5), min_size=3, max_size=3),
    constant=st.sampled_from([0.0, 20.0, 60.0]),
)
def test_both_forms_blend_alike(ranks: list[list[int]], weights: list[float], constant: float) -> None:
    table, own = np.asarray(ranks, np.int32).reshape(-1, 3), np.asarray(weights)
    expected = blend_by_numpy(table, own, constant + 1)
    assert _merging.blend(table, own, constant + 1).tobytes() == expected.tobytes()
    assert _merging.blend(table[::-2], own, constant + 1).tobytes() == expected[::-2].tobytes()


@compiled
def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    ids, scores = np.asarray([1, 2]), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="channel 0: 3 scores for 2 items"):
        _merging.merge([ids], [scores], [None], [None])
    with pytest.raises(ValueError, match="channel 0: 1 seeds for 2 items"):
        _merging.merge([ids], [scores[:2]], [ids[:1]], [np.ones(1, np.bool_)])
    with pytest.raises(ValueError, match="2 weights for 3 channels"):
        _merging.blend(np.ones((4, 3), np.int32), np.ones(2), 20.0)
