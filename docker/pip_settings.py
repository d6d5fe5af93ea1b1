"""Turns `pip config list` (standard input) into a pip.conf and the list of local paths that it names.

`pip_settings.py PIP_CONF MOUNTS`: image builds read the first as a secret and mount the second, so that they install
packages the way this machine does, whatever way that is.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path


def parse(lines: list[str]) -> dict[str, str]:
    """Settings by name without their section; what the environment says wins over files, as in pip."""
    pairs = [re.fullmatch(r"(:env:|[\w-]+)\.([\w.-]+)=(.*)", line.strip()) for line in lines]
    ordered = sorted((pair.groups() for pair in pairs if pair), key=lambda found: found[0] == ":env:")
    return {name.lstrip("."): ast.literal_eval(value) for _, name, value in ordered}


def local_paths(settings: dict[str, str]) -> list[str]:
    """Existing absolute paths among the values, and for a `file://` index the folder above it, where its files lie."""
    words = [word for value in settings.values() for word in value.split()]
    indexes = {str(Path(word.removeprefix("file://")).parent) for word in words if word.startswith("file:///")}
    paths = {word for word in words if word.startswith("/")} | indexes
    return sorted(path for path in paths if path != "/" and Path(path).exists())


def main(pip_conf: Path, mounts: Path) -> None:
    """Reads standard input, writes both files."""
    settings = parse(sys.stdin.read().splitlines())
    pip_conf.write_text(
        "[global]\n" + "".join(f"{name} = {' '.join(value.split())}\n" for name, value in settings.items())
    )
    mounts.write_text("".join(f"{path}\n" for path in local_paths(settings)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
