"""The receipts of steps and of everything that they were made from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from offline.steps.workspace import RECEIPT


def receipts_of(folders: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Receipts by folder name: of the steps in `folders` and, step by step, of their inputs; each once."""
    waiting, found = list(folders), dict[str, dict[str, Any]]()
    while waiting:
        folder = waiting.pop()
        if folder.name in found or not (folder / RECEIPT).is_file():
            continue
        found[folder.name] = receipt = json.loads((folder / RECEIPT).read_text("utf-8"))
        waiting += [folder.parent / name for name in receipt["inputs"]]
    return found
