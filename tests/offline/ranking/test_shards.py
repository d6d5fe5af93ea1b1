"""Samples made by several processes are those made by one, byte for byte, and are written piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from offline.dataset.splits import Window
from offline.protocols.targets import Targets, targets_of
from offline.ranking.samples import (
    ARRAYS,
    HISTORY_ARRAYS,
    SampleInputs,
    Samples,
    SamplesConfig,
    SampleWriter,
    blocks_of,
    collect,
    feature_store,
    write_samples,
)
from offline.recall import popularity
from offline.recall.popularity import PopularityConfig
from recall_server.channels.popularity import PopularityChannel
from recsys.bundle import ChannelPolicy, ServingPolicy
from recsys.errors import BundleDamaged, ContractBroken
from tests.offline.tastes import DAY, bare_samples, dataset_of_tastes

DATASET = dataset_of_tastes()
WINDOW = Window(50 * DAY, 80 * DAY)
SNAPSHOT = DATASET.snapshot(WINDOW.cutoff)
TARGETS = targets_of("all", DATASET, SNAPSHOT, WINDOW)
POLICY = ServingPolicy(
    channels=(ChannelPolicy(name="popularity", count=30, weight=1.0),),
    rank_count=30,
    ranking="ranked",
    serving_clock="cutoff",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A popularity channel and the features of the cut-off, as a bundle has them."""
    folder = tmp_path_factory.mktemp("models")
    SNAPSHOT.catalogue.save(folder)
    popularity.train(SNAPSHOT, PopularityConfig(), folder)
    feature_store(SNAPSHOT, POLICY).save(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def written(models: Path, folder: Path, config: SamplesConfig, *, workers: int = 1) -> dict[str, bytes]:
    write_samples(folder, SampleInputs(models, models, POLICY, config), blocks_of(TARGETS, 25), workers=workers)
    return files(folder)


def test_any_number_of_processes_writes_the_same_bytes(models: Path, tmp_path: Path) -> None:
    config = SamplesConfig(candidates="mixed")
    alone = written(models, tmp_path / "one", config)
    together = written(models, tmp_path / "two", config, workers=2)
    assert len(alone) == len(ARRAYS) + len(HISTORY_ARRAYS)
    assert together == alone


def test_blocks_together_are_the_whole(models: Path, tmp_path: Path) -> None:
    written(models, tmp_path, SamplesConfig())
    whole = collect(SNAPSHOT, [PopularityChannel.open(models)], TARGETS, policy=POLICY)
    opened = Samples.open(tmp_path)
    for name in ARRAYS:
        assert getattr(opened, name).tobytes() == getattr(whole, name).tobytes(), name
    for name in HISTORY_ARRAYS:
        assert getattr(opened.histories, name).tobytes() == getattr(whole.histories, name).tobytes(), name


def test_blocks_are_asked_for_one_at_a_time(models: Path, tmp_path: Path) -> None:
    """A block is on disk before the next one is made: memory does not grow with their number."""
    sizes = []

    def blocks() -> Iterator[Targets]:
        for block in blocks_of(TARGETS, 25):
            sizes.append((tmp_path / "labels.npy").stat().st_size if (tmp_path / "labels.npy").is_file() else 0)
            yield block

    write_samples(tmp_path, SampleInputs(models, models, POLICY, SamplesConfig()), blocks())
    assert sizes[0] == 0
    assert len(sizes) == -(-len(TARGETS) // 25)
    assert np.load(tmp_path / "groups.npy").shape == (len(TARGETS),)


def test_what_fails_in_a_process_is_said_here(models: Path, tmp_path: Path) -> None:
    policy = POLICY.model_copy(update={"channels": (ChannelPolicy(name="itemcf", count=30, weight=1.0),)})
    source = SampleInputs(models, models, policy, SamplesConfig())
    with pytest.raises(BundleDamaged, match="itemcf"):
        write_samples(tmp_path, source, blocks_of(TARGETS, len(TARGETS)), workers=2)


def test_nothing_to_write_is_an_error(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractBroken, match="no request to make samples of"):
        write_samples(tmp_path, SampleInputs(models, models, POLICY, SamplesConfig()), iter(()))


def test_blocks_with_other_columns_are_refused(tmp_path: Path) -> None:
    narrow, wide = (bare_samples(np.zeros((2, n), np.float32), [1, 0], [2], [1]) for n in (3, 4))
    with SampleWriter(tmp_path) as writer:
        writer.append(narrow)
        with pytest.raises(ValueError, match=r"rows of float32\(4,\) behind float32\(3,\)"):
            writer.append(wide)
