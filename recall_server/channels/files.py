"""Reading a channel's files: arrays are memory-mapped, never copied, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from recsys.arrays import open_array
from recsys.errors import BundleDamaged, BundleMismatch

FactsT = TypeVar("FactsT", bound=BaseModel)


def map_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], *, facts: str) -> NDArray[Any]:
    """Maps an array without reading it; raises BundleMismatch if it is not what the file named `facts` says."""
    found = open_array(path)
    if found.shape != shape or found.dtype != dtype:
        raise BundleMismatch(
            f"{path}: {found.dtype}{list(found.shape)}, expected {dtype}{list(shape)} to fit {facts}; "
            "train and publish again"
        )
    return found


def read_facts(path: Path, kind: type[FactsT]) -> FactsT:
    """What a channel's facts file says; raises BundleDamaged, which names the first wrong field."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BundleDamaged(f"{path}: {where}: {first['msg']}; train and publish again") from error
    except (UnicodeDecodeError, OSError) as error:
        raise BundleDamaged(f"{path}: unreadable ({error}); train and publish again") from error


def check_items(path: Path, found: int, expected: int) -> None:
    """Raises BundleMismatch if the facts at `path` count other items than the catalogue."""
    if found != expected:
        raise BundleMismatch(f"{path}: {found} items, the catalogue has {expected}; train and publish again")
