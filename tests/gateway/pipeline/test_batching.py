"""Requests that share batches: nobody's time, errors or answer depend on who else is in the batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace

import numpy as np
import pytest

from gateway.pipeline.batching import Batcher, BatchLimits
from gateway.pipeline.post_ranking import PostRankingStage
from gateway.pipeline.request import Request
from gateway.pipeline.stages import Budget, SourceAnswer, Status
from gateway.pipeline.work import Answer
from recsys.domain import History, RecallQuery, RecallResult
from recsys.errors import InvalidRequest, RecsysError
from tests.gateway.pipeline.batches import PATIENT, Channel, Served, asked, limits, status

IMPATIENT = 0.2


async def test_a_lone_request_leaves_at_once_and_those_behind_it_leave_together_in_order() -> None:
    served = Served()
    served.slow.open.clear()
    alone = served.ask(1)
    await asked(served.slow, 1)
    behind = [served.ask(item) for item in (2, 3, 4, 5, 6)]
    answered: list[asyncio.Task[Answer]] = []
    for task in behind:
        task.add_done_callback(answered.append)
    await asyncio.sleep(0)
    served.slow.open.set()
    answers = await asyncio.gather(alone, *behind)
    assert [answer.candidates.item_ids.tolist() for answer in answers] == [[2], [3], [4], [5], [6], [7]]
    assert served.sizes == served.slow.batches == [1, 4, 1]
    assert served.rank.batches == [1, 4, 1]
    assert answered[-1] is behind[-1], "who came last leaves last"


async def test_requests_of_the_same_moment_share_a_batch_and_slots_limit_the_batches_in_progress() -> None:
    served = Served(limits=limits(size=2, slots=2))
    served.slow.open.clear()
    tasks = [served.ask(item) for item in (1, 2, 3, 4, 5)]
    await asked(served.slow, 2)
    await asyncio.sleep(0)
    assert served.sizes == [2, 2]
    served.slow.open.set()
    await asyncio.gather(*tasks)
    assert served.sizes == [2, 2, 1]


async def test_one_impatient_caller_is_degraded_in_time_and_costs_the_patient_ones_nothing() -> None:
    served = Served()
    served.slow.open.clear()
    started = time.perf_counter()
    impatient, *patient = [served.ask(1, IMPATIENT), *(served.ask(item) for item in (2, 3, 4))]
    answer = await impatient
    assert time.perf_counter() - started < IMPATIENT + 1.0
    assert status(answer, "recall:itemcf") is Status.TIMEOUT
    assert status(answer, "recall:vector") is status(answer, "rank") is Status.OK
    assert not any(task.done() for task in patient)
    served.slow.open.set()
    for task in patient:
        assert not (await task).degraded
    assert served.sizes == [4], "all of them were in one batch"
    assert served.slow.batches == [4]


async def test_who_still_waits_for_a_slot_when_the_time_is_up_is_answered_without_one() -> None:
    served = Served(limits=limits(size=1, slots=1))
    served.slow.open.clear()
    patient = served.ask(1)
    await asked(served.slow, 1)
    started = time.perf_counter()
    waiting, gone = served.ask(2, IMPATIENT), served.ask(3, IMPATIENT)
    await asyncio.sleep(0)
    gone.cancel()
    answer = await waiting
    assert IMPATIENT <= time.perf_counter() - started < IMPATIENT + 1.0
    assert answer.candidates.channels == ("fallback",)
    assert {report.cause for report in answer.stages if report.cause} == {"no time was left to call it"}
    served.slow.open.set()
    assert not (await patient).degraded
    assert (served.sizes, served.slow.batches) == ([1], [1])


async def test_who_finds_a_slot_free_that_others_take_is_answered_in_time_too() -> None:
    served = Served(limits=limits(size=1, slots=1))
    served.slow.open.clear()
    patient, waiting = served.ask(1), served.ask(2, IMPATIENT)
    async with asyncio.timeout(IMPATIENT + 1.0):
        assert (await waiting).candidates.channels == ("fallback",)
    served.slow.open.set()
    assert not (await patient).degraded


async def test_what_an_impatient_caller_still_waits_for_does_not_hold_up_the_others() -> None:
    served = Served()
    pipeline = replace(served.batcher.pipeline, recall_share=0.05)
    batcher = Batcher(pipeline, served.limits, observe=served.sizes.append)
    served.slow.open.clear()
    served.rank.open.clear()
    request = Request(History.of([1], [0]), 0, 1)
    answers = [asyncio.create_task(batcher.answer(request, Budget.of(seconds))) for seconds in (4.0, PATIENT)]
    await asked(served.rank, 1)
    served.slow.open.set()
    started = time.perf_counter()
    await asked(served.rank, 2)
    assert time.perf_counter() - started < 1.5, "the first may wait for the ranker for three seconds"
    served.rank.open.set()
    assert [(await answer).degraded for answer in answers] == [True, False]


async def test_a_batch_is_nobodys_call() -> None:
    caller, seen = ContextVar("caller", default="nobody"), []

    def refuses(_: RecallQuery) -> None:
        seen.append(caller.get())

    served = Served(refuses=refuses)
    caller.set("somebody")
    await served.ask(1)
    assert seen == ["nobody"]


async def test_an_impatient_caller_is_served_the_blended_order_if_ranking_is_late() -> None:
    served = Served()
    served.rank.open.clear()
    impatient, patient = served.ask(1, IMPATIENT), served.ask(2)
    answer = await impatient
    assert status(answer, "rank") is Status.TIMEOUT
    assert "no answer within the" in answer.stages[-1].cause
    assert answer.candidates.item_ids.tolist() == [2]
    served.rank.open.set()
    assert not (await patient).degraded
    assert served.rank.batches == [2]


async def test_a_request_without_time_is_not_sent_on_and_is_answered_all_the_same() -> None:
    served = Served()
    late, patient = served.ask(1, 0.0), served.ask(2)
    answer = await late
    assert {report.status for report in answer.stages if report.name.startswith(("recall", "rank"))} == {Status.TIMEOUT}
    assert {report.cause for report in answer.stages if report.cause} == {"no time was left to call it"}
    assert answer.candidates.channels == ("fallback",)
    assert not (await patient).degraded
    assert (served.sizes, served.slow.batches, served.rank.batches) == ([2], [1], [1])


async def test_callers_who_go_away_cost_the_others_nothing() -> None:
    served = Served()
    served.slow.open.clear()
    gone, staying = [served.ask(1), served.ask(2)], served.ask(3)
    await asked(served.slow, 1)
    for task in gone:
        task.cancel()
    await asyncio.sleep(0)
    served.slow.open.set()
    assert (await staying).candidates.item_ids.tolist() == [4]
    assert (served.slow.stopped, served.rank.batches) == (0, [1]), "the ranker is asked for the one who stayed"


async def test_a_batch_goes_no_further_once_all_of_its_callers_have_gone_and_no_call_is_cancelled() -> None:
    served = Served()
    served.slow.open.clear()
    others = asyncio.all_tasks()
    gone = [served.ask(1), served.ask(2)]
    await asked(served.slow, 1)
    waiting = served.ask(3)
    for task in gone:
        task.cancel()
    await asyncio.sleep(0)
    served.slow.open.set()
    assert (await waiting).candidates.item_ids.tolist() == [4], "the slot is free again"
    assert asyncio.all_tasks() == others
    assert (served.sizes, served.rank.batches) == ([2, 1], [1]), "the ranker was asked for the third alone"
    assert served.slow.stopped == 0


async def test_a_request_whose_caller_went_away_while_it_waited_is_not_sent_on() -> None:
    served = Served()
    served.slow.open.clear()
    first = served.ask(1)
    await asked(served.slow, 1)
    gone, staying = served.ask(2), served.ask(3)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    served.slow.open.set()
    await asyncio.gather(first, staying)
    assert served.sizes == [1, 1]


@pytest.mark.parametrize("error", [InvalidRequest("no such thing"), RecsysError("itemcf: INTERNAL: a traceback")])
async def test_a_query_that_a_source_refuses_costs_only_its_own_request(error: RecsysError) -> None:
    served = Served(refuses=lambda query: error if query.history.item_ids[-1] == 2 else None)
    answers = await asyncio.gather(*(served.ask(item) for item in (1, 2, 3)))
    assert [answer.degraded for answer in answers] == [False, True, False]
    assert [report.cause for report in answers[1].stages if report.cause] == [str(error)]
    assert [answer.candidates.item_ids.tolist() for answer in answers] == [[2], [3], [4]]
    assert served.slow.batches == [3, 1, 1, 1]


class Twice(Channel):
    """Breaks the contract for users of item 2."""

    def _result(self, query: RecallQuery) -> RecallResult:
        if query.history.item_ids[-1] == 2:
            return RecallResult(np.asarray([5, 5], np.int64), np.ones(2, np.float32))
        return super()._result(query)


async def test_a_result_that_breaks_the_contract_costs_only_its_own_request() -> None:
    served = Served()
    pipeline = served.batcher.pipeline
    broken = replace(pipeline, sources=[Twice("itemcf", served.slow), *pipeline.sources[1:]])
    batcher = Batcher(broken, served.limits, observe=served.sizes.append)
    requests = [Request(History.of([item], [0]), 0, 1) for item in (1, 2, 3)]
    answers = await asyncio.gather(*(batcher.answer(request, Budget.of(PATIENT)) for request in requests))
    assert [status(answer, "recall:itemcf") for answer in answers] == [Status.OK, Status.REFUSED, Status.OK]
    assert served.slow.batches == [3], "it was asked once"


class Breaking(PostRankingStage):
    """Has a bug that one request runs into."""

    name = "breaking"

    def apply(self, ordered, context):  # type: ignore[no-untyped-def]
        if context.request.history.item_ids[-1] == 2:
            raise ZeroDivisionError("a bug")
        return ordered


async def test_an_unexpected_error_is_that_of_the_request_that_runs_into_it() -> None:
    served = Served(extra=(Breaking(),))
    first, second, third = await asyncio.gather(*(served.ask(item) for item in (1, 2, 3)), return_exceptions=True)
    assert isinstance(second, ZeroDivisionError)
    assert isinstance(first, Answer)
    assert isinstance(third, Answer)
    assert [first.degraded, third.degraded] == [False, False]


class Crashing(Channel):
    """Raises what no source may raise."""

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        raise OSError("no space left")


async def test_what_a_source_must_not_raise_fails_the_requests_of_its_batch_and_frees_the_slot() -> None:
    served = Served()
    pipeline = replace(served.batcher.pipeline, sources=[Crashing("itemcf", served.slow)])
    batcher = Batcher(pipeline, served.limits, observe=served.sizes.append)
    for _ in range(2):
        for answer in await asyncio.gather(
            *(batcher.answer(Request(History.empty(), 0, 1), Budget.of(PATIENT)) for _ in range(2)),
            return_exceptions=True,
        ):
            assert isinstance(answer, OSError)


async def test_a_batch_that_is_stuck_does_not_hold_up_those_behind_it() -> None:
    served = Served(limits=BatchLimits(size=4, slots=1))
    await served.ask(9)
    served.slow.open.clear()
    stuck = served.ask(1)
    await asked(served.slow, 2)
    served.slow.open, hanging = asyncio.Event(), served.slow.open
    served.slow.open.set()
    assert not (await served.ask(2)).degraded
    assert not stuck.done()
    hanging.set()
    assert not (await stuck).degraded
