"""Search spaces: which keys of a recipe are searched, and where; a YAML file per method in ``scripts/spaces``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from solo_bam.config.keys import flat
from solo_bam.config.recipe import compose_recipe, user_error
from solo_bam.config.schema import Recipe
from solo_bam.config.section import Section
from solo_bam.core.errors import UserError

DEFAULT = "default"  # the space of a method that has no file
Plain = bool | int | float | str | None
Choices = Annotated[list[Plain], Field(min_length=2)]


class Range(Section):
    """From ``low`` to ``high``; ``log``: on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("with log, low must be above 0")
        return self

    def at(self, share: float) -> float:
        """The value at a share (0 ... 1) of the range."""
        if self.log:
            return float(math.exp(math.log(self.low) + share * math.log(self.high / self.low)))
        return self.low + share * (self.high - self.low)

    def share(self, value: float) -> float:
        """Where a value lies: 0 at ``low``, 1 at ``high``."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def widened(self, side: int) -> Range:
        """Longer by a third at its low (-1) or high (1) end; a linear range ends where it does by nature."""
        if not self.log:
            return self
        factor = (self.high / self.low) ** (1 / 3)
        return Range(low=self.low / factor, high=self.high, log=True) if side < 0 else Range(
            low=self.low, high=self.high * factor, log=True
        )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.low:.3g} … {self.high:.3g}" + (" (log)" if self.log else "")


class Times(Section):
    """The recipe's own value times the first to times the second number, on a logarithmic scale."""

    times: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


Space = dict[str, Range | Choices]


def load_space(name: str, recipe: Recipe, entry: str) -> Space:
    """A search space, with the numbers that it has for a recipe.

    Args:
        name: of a file in ``scripts/spaces``, or a YAML file of one's own.
        recipe: whose keys are searched.
        entry: the row, for errors.

    Raises:
        UserError: no such space, a key that it does not know, or one that the recipe has no value of.
    """
    folder, _, stem = name.rpartition("/") if name.endswith(".yaml") else ("", "", name)
    raw = compose_recipe(stem, [], (folder or ".") if name.endswith(".yaml") else None, "spaces")
    own = dict(flat(recipe.model_dump(mode="json")))
    return {key: _resolve(f"spaces/{name}: {key}", key, leaf, own, entry) for key, leaf in _leaves(raw)}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Ranges and lists with the dotted keys of the recipe that they stand for."""
    for key, child in node.items():
        section = isinstance(child, Mapping) and child and all(isinstance(v, Mapping | list) for v in child.values())
        if section and set(child) != {"times"}:
            yield from _leaves(child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", child


def _resolve(place: str, key: str, leaf: Any, own: Mapping[str, Any], entry: str) -> Range | list[Plain]:
    if key not in own:
        problem = f"{entry} has no such key"
        raise UserError(place, problem, "correct the name, or give the key a value in the row's recipe")
    found = _parsed(place, leaf)
    if isinstance(found, Times):
        if not isinstance(own[key], int | float) or own[key] <= 0:
            problem = f"{entry} has {own[key]!r}, which nothing can be a multiple of"
            raise UserError(place, problem, "give low and high, or another value in the recipe")
        found = _range_of(place, own[key], found)
    if not _holds(found, own[key]):
        problem = f"{entry} has {own[key]!r}, which is not among what is searched ({describe(found)})"
        raise UserError(place, problem, "the first trial is the recipe as it is: make room for it")
    return found


def _parsed(place: str, leaf: Any) -> Range | Times | list[Plain]:
    model: type[Section] = Times if isinstance(leaf, Mapping) and "times" in leaf else Range
    try:
        if isinstance(leaf, list):
            return TypeAdapter(Choices).validate_python(leaf)
        return model.model_validate(leaf)  # type: ignore[return-value]
    except ValidationError as error:
        found = user_error(error, model)
        key = f"{place}.{found.key}".rstrip(".")
        raise UserError(key, found.problem, "give [a, b], {low: …, high: …, log: True} or {times: [a, b]}") from None


def _range_of(place: str, own: float, times: Times) -> Range:
    low, high = times.times
    if low >= high:
        raise UserError(f"{place}.times", f"got {list(times.times)}", "give the lower number first")
    return Range(low=own * low, high=own * high, log=True)


def _holds(found: Range | list[Plain], value: Any) -> bool:
    if isinstance(found, Range):
        return isinstance(value, int | float) and found.low <= value <= found.high
    return any((type(one) is type(value) and one == value) or _same_number(one, value) for one in found)


def _same_number(a: Any, b: Any) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b)) and a == b


def describe(found: Range | list[Plain]) -> str:
    """For people: ``0.001 … 0.1 (log)`` or ``0.1, 0.2, 0.5``."""
    return str(found) if isinstance(found, Range) else ", ".join(map(str, found))
