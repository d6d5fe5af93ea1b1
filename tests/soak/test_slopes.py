"""What grows is found through noise and outliers; what only trembles is not."""

from __future__ import annotations

import numpy as np

from tests.soak.slopes import HOUR, slope

SECONDS = np.arange(0.0, HOUR, 10.0)


def level(rng: np.random.Generator) -> np.ndarray:
    values = 150 + rng.normal(0, 1.0, len(SECONDS))
    values[::11] += 30  # what a garbage collection has not yet taken
    return values


def test_a_leak_is_found_and_its_size() -> None:
    found = slope(SECONDS, level(np.random.default_rng(1)) + SECONDS / HOUR * 10)
    assert abs(found.per_hour - 10) < 0.5
    assert found.grows("rss MiB")


def test_noise_does_not_grow() -> None:
    assert not any(slope(SECONDS, level(np.random.default_rng(seed))).grows("rss MiB") for seed in range(20))


def test_a_descriptor_per_minute_is_found() -> None:
    assert slope(SECONDS, 40 + SECONDS // 60).grows("descriptors")


def test_a_constant_does_not_grow() -> None:
    assert not slope(SECONDS, np.full(len(SECONDS), 12.0)).grows("threads")
