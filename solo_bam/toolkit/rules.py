"""What a method says about itself: its settings and the crops that it takes."""

from __future__ import annotations

from typing import NamedTuple


class CropRule(NamedTuple):
    """Which crops a method takes.

    A method class may have one as its attribute ``crops``.

    Attributes:
        large: how many large crops, None for any number.
        small: whether its loss uses small crops.
    """

    large: int | None
    small: bool
