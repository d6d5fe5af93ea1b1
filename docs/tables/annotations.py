"""Types of settings, in words."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from tables.markdown import quoted


def kind_of(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(inner[0])
    if origin is Literal:
        return ", ".join(quoted(value) for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(kind_of(kind) for kind in inner)
    if origin in (list, tuple):
        return f"list of {kind_of(inner[0])}"
    if origin is dict:
        return f"map of {kind_of(inner[0])} to {kind_of(inner[1])}"
    if annotation is NoneType:
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "{" + ", ".join(annotation.model_fields) + "}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(quoted(value.value) for value in annotation)
    return {str: "string", Path: "path"}.get(annotation, str(annotation.__name__))
