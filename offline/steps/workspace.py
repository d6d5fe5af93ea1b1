"""Steps that are not run again while their inputs, configuration and code stay the same.

A step writes a folder. Its key is a digest of its name, its configuration, the keys of its inputs and the source that
does its work (`offline.steps.code`); the folder is `work/<name>-<key>`, written under a temporary name and renamed when
complete, so a killed run leaves nothing that looks finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from offline.steps.code import code_digest
from offline.steps.cost import Meter
from recsys.errors import DataError

log = logging.getLogger(__name__)

RECEIPT = "step.json"
SAMPLED = "sampled.json"
"""What a step notes of samples (`offline.steps.sampling`)."""
OWN_FILES = (RECEIPT, SAMPLED)
"""Files of a step's folder that are about the step: no part of what it made."""

_HELD: dict[Path, IO[str]] = {}
"""Locked files of the workspaces that this process uses."""


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step."""

    name: str
    key: str
    folder: Path
    reused: bool


class Workspace:
    """The folder in which the steps of one data set are kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._used: set[str] = set()

    def run(
        self,
        name: str,
        work: Callable[..., object],
        *,
        config: BaseModel | None = None,
        facts: object = None,
        inputs: Sequence[Step] = (),
        also: Sequence[Callable[..., Any]] = (),
        given: Callable[[], object] | None = None,
    ) -> Step:
        """Runs `work(folder)` unless a folder of the same key is there already.

        `config` and `facts` (anything JSON) are what the step depends on besides its inputs. The code that it depends
        on is found by itself: the module of `work` and all of ours that this imports. So `work` is a function of the
        module that does the work, its other arguments bound by `functools.partial`. `also` are functions or classes
        that it reaches by name instead of by import.

        With `given`, the step is run as `work(given(), folder=folder)`: for what is too large to be made or kept where
        the step is not run. Facts or inputs stand for it in the key.
        """
        key = step_key(name, config=config, facts=facts, inputs=inputs, code=code_digest([work, *also]))
        folder = self.root / f"{name}-{key}"
        self._used.add(folder.name)
        self._hold()
        if (folder / RECEIPT).is_file():
            log.info("%s: unchanged, reused", name)
            return Step(name, key, folder, reused=True)
        staging = self.root / f".{name}-{key}"
        staging.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with Meter() as meter:
            if given is None:
                work(staging)
            else:
                work(given(), folder=staging)
        seconds = round(time.monotonic() - started, 2)
        receipt = {"name": name, "key": key, "seconds": seconds, "inputs": [step.folder.name for step in inputs]}
        receipt |= asdict(meter.cost)
        (staging / RECEIPT).write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
        log.info("%s: done in %.1f s", name, seconds)
        return Step(name, key, folder, reused=False)

    def _hold(self) -> None:
        """Keeps other processes out of the workspace from the first step on, until `release` or the process's end."""
        if self.root.resolve() in _HELD:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        lock = self.root.with_name(f".{self.root.name}.lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise DataError(
                f"{self.root}: another offline command is at work there; wait until it has ended, or use another --root"
            ) from None
        _HELD[self.root.resolve()] = lock

    def release(self) -> None:
        """Lets other processes use the workspace."""
        held = _HELD.pop(self.root.resolve(), None)
        if held is not None:
            held.close()

    @property
    def used(self) -> frozenset[str]:
        """Names of the folders that steps of this run used or made."""
        return frozenset(self._used)

    def prune(self) -> None:
        """Removes folders that no step of this run used or made."""
        for folder in self.root.glob("*"):
            if folder.is_dir() and folder.name.lstrip(".") not in self._used:
                shutil.rmtree(folder)


def step_key(name: str, *, config: BaseModel | None, facts: object, inputs: Sequence[Step], code: str) -> str:
    """16 hex digits that change whenever the step's outcome may; `code` is a digest of the source."""
    parts = {
        "name": name,
        "config": config.model_dump(mode="json") if config else None,
        "facts": facts,
        "inputs": [step.key for step in inputs],
        "code": code,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
