"""The released bundle, published again with the items that there are now."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from offline.dataset.interactions import Snapshot
from offline.indexing.items import indexed_snapshot, new_items, warn_of_undescribed
from offline.indexing.parts import Indexing
from offline.indexing.texts import index_texts
from offline.ingest.prepare import prepare_tables
from offline.publish.golden_requests import golden_requests, write_golden
from offline.publish.publish import BundleFacts, publish
from offline.recall.als import ALSConfig
from offline.recall.content import ContentConfig
from offline.recall.two_tower import TwoTowerConfig
from offline.steps.workspace import Step, Workspace
from offline.workflow.config import OfflineConfig
from recall_server.channels.vector import VectorChannel, read_facts
from recsys.bundle import Bundle
from recsys.errors import DataError

INDEX = "index"
"""The step."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """A bundle that was published with more items."""

    version: str
    new_items: int
    items: int
    """All items of the bundle, new ones included."""


def add_items(config: OfflineConfig, as_of: int) -> Indexed:
    """Publishes the released production bundle with the items of the tables that are available by `as_of`.

    `as_of`: Unix seconds. The tables are made again where the raw files changed.

    Raises:
        BundleMissing: there is no production bundle.
        DataError: an item of the bundle is not in the tables any more, or the protocol leaves items out.
        DataMissing: the bundle's towers have another shape than that of `config`, or a named file is not there.
    """
    if config.split.protocol != "temporal":
        raise DataError(
            f"{config.split.protocol} keeps some items out of its catalogue, so none can be added to it; index a "
            "bundle of --split.protocol temporal"
        )
    store = config.store("production")
    bundle = store.open(store.release().current)
    tables = prepare_tables(config.ingest_inputs)
    snapshot = indexed_snapshot(bundle, tables.folder, as_of)
    fresh = new_items(bundle, snapshot.items)
    warn_of_undescribed(fresh)
    workspace = Workspace(config.home / "work")
    version = _publish(config, bundle, snapshot, _indexed(workspace, config, bundle, snapshot, tables=tables))
    _prune(workspace, config.keep_bundles)
    return Indexed(version, len(fresh.item_ids), len(snapshot.catalogue))


def _indexed(workspace: Workspace, config: OfflineConfig, bundle: Bundle, snapshot: Snapshot, *, tables: Step) -> Step:
    """The folder of the whole bundle, but for golden requests and manifest."""
    text = index_texts(workspace, bundle, snapshot, config, tables=tables)
    als, content = config.settings_of("als", ALSConfig), config.settings_of("content", ContentConfig)
    towers = config.settings_of("vector", TwoTowerConfig)
    work = Indexing(bundle, snapshot, als, content, towers, tables.folder, text.folder if text else None)
    return workspace.run(
        INDEX,
        work.write,
        facts=[
            bundle.version,
            snapshot.items.item_ids.tolist(),
            als.model_dump(mode="json"),
            content.model_dump(mode="json"),
            towers.model_dump(mode="json"),
        ],
        inputs=[tables, *([text] if text else [])],
    )


def _publish(config: OfflineConfig, bundle: Bundle, snapshot: Snapshot, step: Step) -> str:
    """Policy, time and figures of the manifest stay."""
    manifest = bundle.manifest
    facts = BundleFacts(
        manifest.purpose,
        manifest.dataset,
        manifest.cutoff,
        manifest.events_watermarks,
        manifest.policy,
        manifest.feature_names,
        read_facts(step.folder).index if VectorChannel.name in manifest.roles else None,
        manifest.metrics,
        manifest.sampled,
    )
    requests = golden_requests(snapshot)
    return publish(
        config.store("production"),
        [step.folder],
        facts,
        golden=lambda folder: write_golden(folder, manifest.policy, requests),
        keep=config.keep_bundles,
    )


def _prune(workspace: Workspace, keep: int) -> None:
    """Removes the oldest folders of this step beyond `keep`; the next `run` removes the rest."""
    folders = sorted(workspace.root.glob(f"{INDEX}-*"), key=lambda folder: folder.stat().st_mtime_ns)
    for folder in folders[:-keep]:
        shutil.rmtree(folder)
