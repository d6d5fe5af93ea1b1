"""Samples of many requests, made by several processes in bounded memory: the same bytes for any number of them.

Requests come in blocks. A block is made as a whole by one process, with one thread of linear algebra, from files that
every process opens for itself; it is written to a folder of its own, and this process appends the folders in order of
the blocks and removes them. So at most one block per process is in memory, and a few more are on disk.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from threadpoolctl import threadpool_limits

from offline.metrics.ranking import Relevant
from offline.protocols.targets import Targets
from offline.ranking.samples.arrays import Samples, SampleWriter
from offline.ranking.samples.collection import Collector
from offline.ranking.samples.config import SamplesConfig
from recall_server.channels.registry import open_channels
from recsys.bundle import ServingPolicy
from recsys.catalogue import Catalogue
from recsys.errors import ContractBroken
from recsys.features import FeatureStore


@dataclass(frozen=True, slots=True)
class SampleInputs:
    """What samples are made from, as a process finds it on disk."""

    recall: Path
    """Folder of the channels, as a bundle has it."""
    features: Path
    """Folder of a `FeatureStore`; the catalogue is in that of the channels."""
    policy: ServingPolicy
    config: SamplesConfig

    def open(self) -> Collector:
        """Opens channels and features."""
        store = FeatureStore.open(self.features, Catalogue.load(self.recall))
        return Collector.of(store, open_channels(self.policy, self.recall), self.policy, self.config)


_INPUTS: list[SampleInputs] = []
"""What this worker process works from."""


def blocks_of(targets: Targets, n: int) -> Iterator[Targets]:
    """The targets, `n` requests at a time, in order; one block without any where there is none."""
    for start in range(0, max(len(targets), 1), n):
        rows = slice(start, start + n)
        indptr = targets.relevant.indptr[start : start + n + 1]
        events = slice(int(indptr[0]), int(indptr[-1]))
        yield replace(
            targets,
            requests=targets.requests[rows],
            user_ids=targets.user_ids[rows],
            warm=targets.warm[rows],
            relevant=Relevant(indptr - indptr[0], targets.relevant.item_ids[events]),
            values=None if targets.values is None else targets.values[events],
        )


def write_samples(folder: Path, inputs: SampleInputs, blocks: Iterable[Targets], *, workers: int = 1) -> None:
    """Writes the samples of all blocks, in their order, as `Samples.open` reads them.

    Raises ContractBroken where there is no block.
    """
    made = _here(inputs, blocks) if workers == 1 else _by_processes(inputs, blocks, folder / ".shards", workers)
    written = 0
    with SampleWriter(folder) as writer:
        for block in made:
            writer.append(block)
            written += 1
    if not written:
        raise ContractBroken(f"{folder}: no request to make samples of; see the split's windows")


def sample_fold(inputs: SampleInputs, ask: Callable[[], Targets], folder: Path, *, workers: int = 1) -> None:
    """Writes the samples of the requests that `ask` makes, in blocks of `inputs.config.shard_requests`."""
    targets = ask()
    targets.note_sample(folder, "ranker")
    write_samples(folder, inputs, blocks_of(targets, inputs.config.shard_requests), workers=workers)


def _here(inputs: SampleInputs, blocks: Iterable[Targets]) -> Iterator[Samples]:
    collector = inputs.open()
    with threadpool_limits(limits=1):
        for block in blocks:
            yield collector.samples(block)


def _by_processes(inputs: SampleInputs, blocks: Iterable[Targets], folder: Path, workers: int) -> Iterator[Samples]:
    """Keeps every process busy and hands out one block more than there are processes."""
    waiting: deque[tuple[Path, Future[None]]] = deque()
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (inputs,)) as pool:
        for number, block in enumerate(blocks):
            shard = folder / f"{number:08d}"
            waiting.append((shard, pool.submit(_write, block, shard)))
            if len(waiting) > workers:
                yield from _finished(*waiting.popleft())
        while waiting:
            yield from _finished(*waiting.popleft())
    shutil.rmtree(folder, ignore_errors=True)


def _finished(shard: Path, done: Future[None]) -> Iterator[Samples]:
    done.result()
    yield Samples.open(shard)
    shutil.rmtree(shard)


def _begin(inputs: SampleInputs) -> None:
    threadpool_limits(limits=1)
    _INPUTS.append(inputs)


@cache
def _opened() -> Collector:
    return _INPUTS[0].open()


def _write(block: Targets, shard: Path) -> None:
    _opened().samples(block).save(shard)
