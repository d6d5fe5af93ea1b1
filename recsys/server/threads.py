"""How many threads linear algebra may use in a server: one, unless the environment says otherwise.

A server computes small matrices. Threads of OpenBLAS or OpenMP that share a core with another process wait for each
other most of the time. Parallel work is what further processes and `compute_threads` are for.
"""

from __future__ import annotations

import os


def limit_threads() -> None:
    """Sets OMP_NUM_THREADS and OPENBLAS_NUM_THREADS to 1; call it before numpy is imported, which reads them then.

    A variable that the user set stays. OpenBLAS follows OMP_NUM_THREADS where that is the only one set.
    """
    threads = os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", threads)
