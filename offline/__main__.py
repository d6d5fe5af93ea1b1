"""`python -m offline`."""

import os

# OpenMP threads that spin while they wait slow each other down tenfold on a busy machine; read when libgomp loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from offline.commands.cli import main

if __name__ == "__main__":
    main()
