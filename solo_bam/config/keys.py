"""The dotted keys of nested mappings and lists: ``augmentations.0.crop_size``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings and lists with their dotted keys."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if not children:
        yield prefix.rstrip("."), node
        return
    for key, child in children:
        yield from flat(child, f"{prefix}{key}.")


def completions(prefix: str, model: type[BaseModel], given: Mapping[str, Any] | None = None) -> list[str]:
    """``key=value`` for what a shell has of one.

    Args:
        prefix: ``optim``, or ``optimizer.name=``, whose values are then told where they are few.
        model: of the keys.
        given: a resolved recipe, whose keys are told; None: those of the model.
    """
    allowed = dict(_allowed(model))
    key, is_given, _ = prefix.partition("=")
    if is_given:
        return [f"{key}={value}" for value in allowed.get(re.sub(r"\.\d+", "", key), ())]
    keys = allowed if given is None else {re.sub(r"(\.\d+)+$", "", leaf) for leaf, _ in flat(given)}
    return [f"{key}=" for key in sorted(keys)]


def _allowed(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Each key of a model, without places in lists, and its values where it has few."""
    for name, field in model.model_fields.items():
        sections = [one for one in (field.annotation, *get_args(field.annotation)) if hasattr(one, "model_fields")]
        for section in sections:
            yield from _allowed(section, f"{prefix}{name}.")
        if not sections:
            yield f"{prefix}{name}", list(_values(field.annotation))


def _values(annotation: Any) -> Iterator[Any]:
    if annotation is bool:
        yield from (True, False)
    for argument in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield argument
        else:
            yield from _values(argument)
