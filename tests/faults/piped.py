"""`python -m tests.faults.piped WORDS`: becomes `python WORDS` with a small pipe as stderr, and `cat` as its reader."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

READER = "cat"
PIPE_BYTES = 4096
"""The smallest that there is: a reader that is stopped is noticed after a few lines."""


def main() -> None:
    """Does not return."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    subprocess.Popen([READER], stdin=read, stdout=2, stderr=subprocess.DEVNULL)
    os.close(read)
    os.dup2(write, 2)
    os.close(write)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


if __name__ == "__main__":
    main()
