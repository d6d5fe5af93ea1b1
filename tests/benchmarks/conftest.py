"""The peers' package lies outside the installed ones: its folder is put on the path, as run.py does it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
