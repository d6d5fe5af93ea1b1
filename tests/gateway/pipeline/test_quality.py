"""Adaptive quality: slow stages get less to do, and what was touched says so."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from gateway.pipeline.batching import Batcher
from gateway.pipeline.fallback import Fallback
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.quality import Quality, QualityLimits, StageQuality, reduced
from gateway.pipeline.request import Request
from gateway.pipeline.stages import Budget, Status
from gateway.pipeline.work import Answer
from recsys.domain import History
from tests.gateway.pipeline.batches import PATIENT, Served
from tests.gateway.pipeline.test_pipeline import ById, Recording
from tests.gateway.toy import POPULAR, Clock, catalogue, policy

LIVE = Request(History.empty(), 0, 2, live=True)


def stage(clock: Clock, **limits: float) -> StageQuality:
    return StageQuality(QualityLimits(**limits), clock)


def busy(quality: StageQuality, clock: Clock, *, used: float, periods: int) -> None:
    """Many calls in every period that took this part of their time; one in ten takes no time at all."""
    for _ in range(periods):
        clock.now += 0.25
        quality.observe(0.0, 1.0, 3)
        quality.observe(used, 1.0, 27)


def test_the_share_falls_to_its_floor_under_load_and_recovers() -> None:
    clock = Clock()
    quality = stage(clock, floor=0.3)
    busy(quality, clock, used=0.5, periods=9)
    assert quality.share == 1.0, "neither slow nor fast"
    busy(quality, clock, used=0.9, periods=3)
    assert 0.3 < quality.share < 1.0
    busy(quality, clock, used=0.9, periods=20)
    assert quality.share == 0.3
    busy(quality, clock, used=0.1, periods=30)
    assert quality.share == 1.0


def test_one_slow_call_of_many_changes_nothing_and_changes_are_a_period_apart() -> None:
    clock = Clock()
    quality = stage(clock, period_seconds=10.0)
    for _ in range(100):
        clock.now += 1.0
        for call in range(20):
            quality.observe(1.0 if call == 0 else 0.5, 1.0)
    assert quality.share == 1.0
    clock.now += 5.0
    quality.observe(1.0, 1.0)
    assert quality.share == 1.0


def test_where_few_ask_there_is_no_load_and_the_share_is_whole_again_within_two_seconds() -> None:
    clock = Clock()
    quality = stage(clock, floor=0.25)
    busy(quality, clock, used=0.9, periods=20)
    assert quality.share == 0.25
    clock.now += 1.0
    assert 0.25 < quality.share < 1.0
    quality.observe(1.0, 1.0)
    clock.now += 0.99
    assert quality.share < 1.0
    clock.now += 0.01
    assert quality.share == 1.0
    for _ in range(10):
        clock.now += 1.0
        quality.observe(1.0, 1.0, 19)
    assert quality.share == 1.0, "slow, but not because of many"


async def test_who_has_little_time_says_nothing_about_the_load() -> None:
    served = Served()
    quality = Quality(QualityLimits(period_seconds=1e9))
    batcher = Batcher(replace(served.batcher.pipeline, quality=quality), served.limits, observe=served.sizes.append)
    served.slow.open.clear()
    request = replace(LIVE, history=History.of([1], [0]))
    impatient, *patient = [asyncio.create_task(batcher.answer(request, Budget.of(s))) for s in (0.1, PATIENT, PATIENT)]
    assert (await impatient).degraded
    assert (quality.recall._used, len(quality.rank._used)) == ([], 1)
    served.slow.open.set()
    await asyncio.gather(*patient)
    assert (len(quality.recall._used), len(quality.rank._used)) == (2, 3)
    assert max(quality.recall._used) < 0.5


def test_fewer_candidates_are_never_fewer_than_were_asked_for() -> None:
    assert [reduced(200, share, least=10) for share in (1.0, 0.5, 0.25, 0.01)] == [200, 100, 50, 10]
    assert reduced(5, 1.0, least=8) == 8


def loaded(*, recall: float, rank: float) -> tuple[Pipeline, list[Recording], ById]:
    """A pipeline whose stages have been slow."""
    items, ranker = catalogue(), ById()
    channels = [Recording("popularity", [3, 1, 2]), Recording("itemcf", [6, 5]), Recording("vector", [7, 4])]
    fallback = Fallback(items, np.asarray(POPULAR, np.int64))
    quality = Quality(QualityLimits(period_seconds=1e9))
    quality.recall._share, quality.rank._share = recall, rank
    return Pipeline(items, policy(), channels, ranker, fallback, quality=quality), channels, ranker


async def ask(pipeline: Pipeline, request: Request) -> Answer:
    (answer,) = await pipeline.run([request], Budget.of(60.0))
    return answer


def reduced_stages(answer: Answer) -> dict[str, str]:
    return {report.name: report.cause for report in answer.stages if report.status is Status.REDUCED}


async def test_what_is_reduced_is_degraded_by_load() -> None:
    pipeline, channels, ranker = loaded(recall=0.5, rank=0.3)
    answer = await ask(pipeline, LIVE)
    assert answer.degraded
    assert {channel.queries[0].count for channel in channels} == {4}
    assert len(ranker.queries[0].candidates) == 3
    assert reduced_stages(answer) == {
        "recall:popularity": "load: 50% of the usual candidates",
        "recall:itemcf": "load: 50% of the usual candidates",
        "recall:vector": "load: 50% of the usual candidates",
        "rank": "load: 30% of the usual candidates",
    }


async def test_questions_about_quality_are_never_reduced() -> None:
    pipeline, channels, ranker = loaded(recall=0.5, rank=0.3)
    answer = await ask(pipeline, replace(LIVE, live=False))
    assert not answer.degraded
    assert {channel.queries[0].count for channel in channels} == {8}
    assert len(ranker.queries[0].candidates) == 7
