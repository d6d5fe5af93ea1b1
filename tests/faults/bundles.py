"""The bundle that a run serves: a published one, or a small one of the checkerboard."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.published import publish_checkerboard


@contextmanager
def bundles(published: Path | None) -> Iterator[tuple[Path, Path]]:
    """The folder of bundles, and a folder to work in, which is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        root = published
        if root is None:
            root = Path(folder, "bundles")
            publish_checkerboard(root)
        yield root, Path(folder)
