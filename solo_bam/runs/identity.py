"""What makes two recipes the same run: a hash for its folder's name, and the keys in which two differ."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from solo_bam.config.keys import flat
from solo_bam.config.schema import SHARDED, Run

# What a run may be continued with another value of: how it is resumed, kept, shown and fed changes no number.
MAY_CHANGE = (
    "auto_resume", "resume_from_checkpoint", "wandb", "checkpoint", "data.num_workers", "enable_progress_bar",
    "enable_model_summary", "distributed", "debug_augmentations", "tuned", "on_collapse", "pictures",
)  # fmt: skip
# How a batch is shared out; for some runs only the whole of it is part of them.
SHARES = ("devices", "num_nodes", "optimizer.batch_size")


def recipe_hash(recipe: Run) -> str:
    """Eight hexadecimal digits of everything that the recipe asks for, the seed included, but :data:`MAY_CHANGE`."""
    asked = recipe.model_dump(mode="json")
    for key in MAY_CHANGE:
        *sections, name = key.split(".")
        section = asked
        for part in sections:
            section = section[part]
        section.pop(name, None)
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]


def changes(before: Mapping[str, Any], recipe: Run) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ between a resolved recipe and another, but :data:`MAY_CHANGE`.

    Args:
        before: of a run; a key that did not exist then had what is its default now.
        recipe: a checked one.

    Returns:
        ``{key: (old, new)}``.
    """
    with suppress(ValidationError):  # of a version that had other keys
        before = type(recipe).model_validate(before).model_dump(mode="json")
    old, new = dict(flat(before)), dict(flat(recipe.model_dump(mode="json")))
    found = {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(f"{key}.".startswith(f"{free}.") for free in MAY_CHANGE)
    }
    shared_alike = shared_anew(recipe) and found.keys() <= {*SHARES} and _whole_batch(old) == _whole_batch(new)
    return {} if shared_alike else found


def shared_anew(recipe: Run) -> bool:
    """Whether a run may go on with its batch shared out among another number of processes: batch norms see it whole."""
    return recipe.sync_batchnorm or recipe.strategy == SHARDED


def _whole_batch(recipe: Mapping[str, Any]) -> list[Any]:
    """The batch of all processes, as far as a flat recipe tells it: ``devices`` need not be a number."""
    numbers = [recipe.get(key) for key in SHARES]
    return [math.prod(n for n in numbers if isinstance(n, int)), [n for n in numbers if not isinstance(n, int)]]


def format_changes(found: Mapping[str, tuple[Any, Any]], shown: int = 8) -> str:
    """``optimizer.lr 0.1 -> 0.2, seed 5 -> 6`` for a message."""
    told = [f"{key} {old} -> {new}" for key, (old, new) in found.items()]
    return ", ".join(told[:shown]) + (f" and {len(told) - shown} more" if len(told) > shown else "")
