"""What the sections of all recipes are made of: their base, and the ranges of their numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sharpness = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]  # the loss's own limit
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Branch = Literal["student", "teacher"]  # that a checkpoint holds
Network = Literal["student", "teacher", "untrained", "start"]  # of a run; random weights; those that it began with
Name = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]*$", max_length=200)]  # of a folder


def listed(value: object) -> object:
    """A value where a list is meant: a list of one."""
    return value if isinstance(value, list) else [value]


class Section(BaseModel):
    """A part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
