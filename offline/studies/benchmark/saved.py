"""Results as files: JSON with the format's number, figures rounded to six decimal places."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from recsys.errors import DataMalformed

Result = TypeVar("Result")


def save_result(path: Path, content: dict[str, Any], *, number: int) -> Path:
    """Writes a result of format `number`, and returns `path`; its folder is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded({"format": number, **content}), indent=1) + "\n", "utf-8")
    return path


def load_result(path: Path, build: Callable[[dict[str, Any]], Result], *, number: int) -> Result:
    """What `build` makes of what `save_result` wrote; raises DataMalformed for anything else."""
    try:
        content = json.loads(path.read_text("utf-8"))
        found = content.pop("format")
        if found != number:
            raise DataMalformed(f"{path}: a result of format {found}, expected {number}; run its command again")
        return build(content)
    except (ValueError, KeyError, TypeError) as error:
        raise DataMalformed(f"{path}: not a result ({error}); run its command again") from error


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(inner) for inner in value]
    return value
