"""What every part of a recipe is, and of options that are none."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


def listed(value: object) -> object:
    """A value where a list is meant: a list of one."""
    return value if isinstance(value, list) else [value]
