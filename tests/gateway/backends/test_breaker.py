"""When calls are skipped, and when they go out again."""

from __future__ import annotations

import pytest

from gateway.backends.breaker import Breaker
from gateway.pipeline.stages import Skipped


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock | None = None) -> Breaker:
    return Breaker("itemcf", failures=3, window_seconds=10, clock=clock or Clock())


def test_it_opens_after_failures_in_a_row_and_names_the_last_cause() -> None:
    subject = breaker()
    for cause in ("first", "second"):
        subject.failed(cause)
        subject.check()
    subject.failed("third")
    with pytest.raises(Skipped, match=r"itemcf was not called.*third"):
        subject.check()
    assert subject.cause == "third"


def test_a_success_in_between_starts_the_count_again() -> None:
    subject = breaker()
    for _ in range(5):
        subject.failed("late")
        subject.failed("late")
        subject.succeeded()
    assert not subject.is_open
    assert subject.cause == ""


def test_failures_far_apart_do_not_add_up() -> None:
    clock = Clock()
    subject = breaker(clock)
    for _ in range(5):
        subject.failed("late")
        clock.now += 11
    assert not subject.is_open


def test_a_straggler_does_not_close_it_but_a_probe_does() -> None:
    subject = breaker()
    for _ in range(3):
        subject.failed("down")
    subject.succeeded()
    assert subject.is_open
    subject.close()
    subject.check()


def test_after_a_probe_one_failure_opens_it_again_and_one_success_forgives_all() -> None:
    subject = breaker()
    for _ in range(3):
        subject.failed("down")
    subject.close()
    subject.failed("still down")
    assert subject.is_open
    subject.close()
    subject.succeeded()
    subject.failed("once")
    assert not subject.is_open
