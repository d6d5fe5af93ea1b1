"""Generated tables are what the code says now."""

from __future__ import annotations

import subprocess
import sys

from tests.docs.pages import ROOT


def test_generated_tables_are_fresh() -> None:
    checked = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
