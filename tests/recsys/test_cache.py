"""The cache: bounded by bytes, the latest used stay, and threads get the same value."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.cache import ENTRY_BYTES, ByteLimitedCache


def cache_of(entries: int, size: int) -> ByteLimitedCache[int, bytes]:
    """Room for so many values of `size` bytes."""
    return ByteLimitedCache(entries * (size + ENTRY_BYTES), len)


def test_a_value_is_made_once() -> None:
    cache, made = cache_of(2, 10), []
    for key in (1, 2, 1, 2):
        assert cache.get(key, lambda key=key: made.append(key) or bytes([key] * 10)) == bytes([key] * 10)  # type: ignore[misc,func-returns-value]
    assert made == [1, 2]
    assert cache.used_bytes == 2 * (10 + ENTRY_BYTES)


def test_what_was_not_used_for_longest_is_dropped_first() -> None:
    cache, made = cache_of(2, 10), []

    def ask(key: int) -> None:
        def make() -> bytes:
            made.append(key)
            return bytes(10)

        cache.get(key, make)

    for key in (1, 2, 1, 3, 1, 2):
        ask(key)
    assert made == [1, 2, 3, 2]
    assert len(cache) == 2


def test_a_value_above_the_limit_is_returned_and_pushes_nothing_out() -> None:
    cache = cache_of(1, 10)
    kept = cache.get(1, lambda: bytes(10))
    assert cache.get(2, lambda: bytes(11)) == bytes(11)
    assert cache.get(1, lambda: b"made again") is kept


def test_a_value_that_cannot_be_made_is_asked_for_again() -> None:
    cache = cache_of(1, 10)
    with pytest.raises(ZeroDivisionError):
        cache.get(1, lambda: bytes(1 // 0))
    assert cache.get(1, lambda: b"value") == b"value"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3_000)), max_size=60), st.integers(0, 9_000))
def test_it_never_exceeds_its_limit_and_counts_what_it_holds(asked: list[tuple[int, int]], limit: int) -> None:
    cache: ByteLimitedCache[int, bytes] = ByteLimitedCache(limit, len)
    sizes: dict[int, int] = {}
    for key, size in asked:
        found = cache.get(key, lambda key=key, size=size: sizes.update({key: size}) or bytes(size))  # type: ignore[misc,func-returns-value]
        assert len(found) == sizes[key]
        assert cache.used_bytes <= limit
    assert cache.used_bytes == sum(len(value) + ENTRY_BYTES for value in cache._values.values())


@contextmanager
def fast_switching() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_threads_that_miss_at_once_get_one_value() -> None:
    cache, barrier = cache_of(4, 10), Barrier(4)

    def make() -> bytes:
        barrier.wait(10)
        return bytes(bytearray(10))

    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda _: cache.get(1, make), range(4)))
    assert len({id(value) for value in values}) == 1
    assert cache.used_bytes == 10 + ENTRY_BYTES


def test_threads_keep_the_books_under_eviction() -> None:
    cache = cache_of(3, 100)

    def work(seed: int) -> None:
        for step in range(2_000):
            key = (seed * 7 + step * step) % 11
            assert cache.get(key, lambda key=key: bytes([key]) * (90 + key)) == bytes([key]) * (90 + key)  # type: ignore[misc]

    with fast_switching(), ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(cache) <= 3
    assert cache.used_bytes == sum(len(value) + ENTRY_BYTES for value in cache._values.values())
