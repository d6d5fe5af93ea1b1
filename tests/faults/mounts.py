"""Small disks of our own, to be filled and frozen."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.faults.contract import NotPossible
from tests.faults.system import Setup

CHUNK = b"\0" * 4096


def call(*words: str) -> None:
    """Runs a command; raises NotPossible with what it says if it fails or is not there."""
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    except OSError as error:
        raise NotPossible(f"{words[0]}: {error.strerror}") from None
    if done.returncode:
        raise NotPossible(f"{' '.join(words[:2])}: {(done.stderr or done.stdout).strip() or done.returncode}")


def mount_memory(setup: Setup, folder: Path, mib: int) -> None:
    """A disk of `mib` MiB at `folder` until the end of the run."""
    folder.mkdir(parents=True)
    call("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder))
    setup.undo.append(["umount", "-l", str(folder)])


def mount_image(setup: Setup, folder: Path, mib: int) -> None:
    """An ext4 file system of `mib` MiB, which can be frozen."""
    folder.mkdir(parents=True)
    image = setup.folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(mib << 20)
    call("mkfs.ext4", "-q", "-F", str(image))
    call("mount", "-o", "loop", str(image), str(folder))
    setup.undo.append(["umount", "-l", str(folder)])
    setup.undo.append(["fsfreeze", "-u", str(folder)])


def fill(folder: Path) -> Path:
    """Takes all that is free; returns the file to delete."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(CHUNK)
        except OSError:
            os.fsync(file.fileno())
    return filler
