"""One bundle behind this system, other servers and none, in turn on this machine; see benchmarks/race/README.md.

python benchmarks/race/run.py --dataset ml-1m --root data [--against CHECKOUT] [--short]
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path


def prepare() -> None:
    """The package is found from whatever folder the program is started; numpy computes in one thread."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    race = Path(__file__).resolve().parent
    sys.path[:1] = [str(race.parents[1]), str(race.parent)]  # instead of this folder


if __name__ == "__main__":
    prepare()
    importlib.import_module("race.program").main(sys.argv[1:], __doc__)
