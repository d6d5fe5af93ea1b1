"""Folders side by side without a copy of their files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from offline.steps.workspace import OWN_FILES


def link_folders(parts: Iterable[Path], folder: Path) -> None:
    """Shows the files of `parts` side by side below `folder`, as hard links; of files of one name the last one's."""
    for part in parts:
        shutil.copytree(
            part, folder, copy_function=_link, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*OWN_FILES)
        )


def _link(source: str, target: str) -> None:
    Path(target).unlink(missing_ok=True)
    os.link(source, target)
