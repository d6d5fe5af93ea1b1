"""Differences between systems of the bench: which systems are compared, and what an interval shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from offline.evaluation.evaluate import BootstrapConfig
from offline.studies.benchmark.differences import differences
from tests.offline.studies.benchmark.bench import a_result


def test_the_verdict_is_that_of_the_interval() -> None:
    difference = a_result().differences[0]
    assert difference.verdict == "better"
    assert replace(difference, low=-0.1).verdict == "no difference shown"
    assert replace(difference, low=-0.2, high=-0.1).verdict == "worse"


def test_ranking_is_held_against_our_best_channel_and_the_blend_and_all_of_ours_against_the_best_peer() -> None:
    """By each figure: the best channel and the best peer of one are not those of the other."""
    own = {name: np.tile(row, (4, 1)) for name, row in (("itemcf", [0.1, 0.6]), ("vector", [0.3, 0.2]))}
    own |= {name: np.tile(row, (4, 1)) for name, row in (("blended", [0.4, 0.5]), ("ranked", [0.5, 0.5]))}
    theirs = {"ease": np.tile([0.2, 0.0], (4, 1)), "bm25": np.tile([0.0, 0.9], (4, 1))}
    found = differences(own, theirs, ("ndcg@10", "recall@10"), np.arange(4), BootstrapConfig(resamples=3))
    by_metric = {metric: [pair.pair for pair in found if pair.metric == metric] for metric in ("ndcg@10", "recall@10")}
    assert by_metric["ndcg@10"] == [
        *((system, "ease") for system in own),
        ("ranked", "vector"),
        ("ranked", "blended"),
    ]
    assert by_metric["recall@10"] == [
        *((system, "bm25") for system in own),
        ("ranked", "itemcf"),
        ("ranked", "blended"),
    ]
    assert [round(pair.mean, 6) for pair in found[-2:]] == [-0.1, 0.0]
    del own["ranked"]
    assert differences(own, {}, ("ndcg@10",), np.arange(4), BootstrapConfig(resamples=3)) == []
