"""Runs one peer on one rows folder: tunes it on the validation rows within a CPU budget, refits, writes its lists.

    .venv-peers/bin/python benchmarks/peers/run.py --rows FOLDER --model NAME --out FOLDER --budget-minutes N

Interrupted, the same command continues where it stopped; finished, it does nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "LK_NUM_THREADS")


def prepare() -> None:
    """One thread for every library, before any of them loads: the budget is CPU time, and threads that spin waste it.
    The package is found from whatever folder the program is started."""
    for variable in THREADS:
        os.environ.setdefault(variable, "1")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


if __name__ == "__main__":
    prepare()
    importlib.import_module("peers.program").main(sys.argv[1:], __doc__)
