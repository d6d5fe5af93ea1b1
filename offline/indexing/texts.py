"""Text vectors of further items, in the space that the towers of the released bundle learned in."""

from __future__ import annotations

import json
from pathlib import Path

from offline.dataset.interactions import Snapshot
from offline.recall.two_tower.checkpoint import WEIGHTS_FILE
from offline.steps.workspace import RECEIPT, Step, Workspace
from offline.workflow.config import OfflineConfig
from offline.workflow.recall_steps import TEXT, text_step
from recsys.bundle import Bundle
from recsys.bundle.store import sha256_of
from recsys.errors import DataMissing


def index_texts(
    workspace: Workspace, bundle: Bundle, snapshot: Snapshot, config: OfflineConfig, *, tables: Step
) -> Step | None:
    """Text vectors of the snapshot's items, in the space that the towers learned in; None where they read none.

    Raises DataMissing where those of training are gone.
    """
    if not config.recall.reads_text or not bundle.has(WEIGHTS_FILE):
        return None
    before = _texts_of_training(workspace.root, bundle)
    facts = ["index", bundle.version, snapshot.items.item_ids.tolist()]
    return text_step(workspace, snapshot.catalogue, config.recall, inputs=[tables], before=before, facts=facts)


def _texts_of_training(root: Path, bundle: Bundle) -> Step:
    """The step that made them: the input of the step that has the bundle's very weights."""
    wanted = bundle.manifest.files[WEIGHTS_FILE].sha256
    for receipt in root.glob(f"*/{RECEIPT}"):
        weights = receipt.parent / WEIGHTS_FILE
        if not weights.is_file() or sha256_of(weights) != wanted:
            continue
        for name in json.loads(receipt.read_text("utf-8"))["inputs"]:
            kind, _, key = name.partition("-")
            if kind == TEXT and (root / name / RECEIPT).is_file():
                return Step(TEXT, key, root / name, reused=True)
    raise DataMissing(
        f"{root}: the text vectors that the towers of bundle {bundle.version} learned with are not there any more, so "
        "no new text can be placed among them; train again with `python -m offline run`"
    )
