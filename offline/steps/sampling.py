"""What is learned or measured on a part of the data says so: on the screen, in the report and in the manifest."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from offline.steps.receipts import receipts_of
from offline.steps.workspace import SAMPLED

log = logging.getLogger(__name__)


def note_sample(folder: Path, what: str, *, used: int, of: int, unit: str) -> None:
    """Notes in the folder of a step that `what` uses a random part of the data; nothing where it uses all."""
    if used >= of:
        return
    note = f"{what}: a sample, {used:,} of {of:,} {unit}"
    log.info("%s", note)
    (folder / SAMPLED).write_text(json.dumps([*notes_in(folder), note]) + "\n", "utf-8")


def notes_in(folder: Path) -> list[str]:
    """What the step of a folder has noted."""
    path = folder / SAMPLED
    return list(json.loads(path.read_text("utf-8"))) if path.is_file() else []


def samples_of(folders: Iterable[Path]) -> tuple[str, ...]:
    """The notes of the steps in `folders` and of everything that they were made from, sorted, each once."""
    places = [folder.parent / name for folder in folders for name in receipts_of([folder])]
    return tuple(sorted({note for place in places for note in notes_in(place)}))
