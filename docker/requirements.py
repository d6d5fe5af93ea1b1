"""Prints what `pyproject.toml` in the working folder requires: `python requirements.py [EXTRA …]`.

The image builds install these before our own code is copied, so that a change of code does not install them again.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main(extras: list[str]) -> None:
    """Prints the requirements of every process, then those of each extra, in the order of the file."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    print("\n".join(requirement for names in lists for requirement in names))


if __name__ == "__main__":
    main(sys.argv[1:])
