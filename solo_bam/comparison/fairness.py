"""What the recipes of a comparison differ in, and which of it makes the comparison unfair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from solo_bam import solo_learn
from solo_bam.config.keys import flat
from solo_bam.config.resolve import describe_stem
from solo_bam.config.schema import Recipe
from solo_bam.runs.identity import MAY_CHANGE

# The method's own part: everything else must be the same for all.
OWN = (
    "method", "method_kwargs", "momentum", "optimizer", "scheduler", "augmentations", "gradient_clip_val",
    "gradient_clip_algorithm",
)  # fmt: skip
# Within it, what belongs to all: the steps that a run makes, and the online probe.
SHARED = ("optimizer.batch_size", "optimizer.classifier_lr")
LABELS = "labels"  # the key of what has them in its loss
# What changes no number that is compared, or what a comparison sets itself.
LEFT_OUT = (*MAY_CHANGE, "name", "seed")


@dataclass(frozen=True)
class Difference:
    """A key in which the recipes differ.

    Attributes:
        key: dotted, of the recipe; ``crops``, ``backbone.stem`` and ``labels`` follow from others.
        values: ``{entry: value}``; None where a recipe has no such key.
        fair: whether it lies in the methods' own part.
    """

    key: str
    values: dict[str, Any]
    fair: bool

    @property
    def told(self) -> str:
        """``max_epochs: 20 (bam, byol), 40 (dino)``; a dash where a recipe has no such key.

        More than three entries that are most of them are «the others», said last.
        """
        groups: dict[str, list[str]] = {}
        for entry, value in self.values.items():
            groups.setdefault("-" if value is None else str(value), []).append(entry)
        most = max(groups, key=lambda value: len(groups[value]))
        if len(groups[most]) > max(3, len(self.values) / 2):
            del groups[most]
            groups[most] = ["the others"]
        return f"{self.key}: " + ", ".join(f"{value} ({', '.join(entries)})" for value, entries in groups.items())


def differences(recipes: Mapping[str, Recipe]) -> list[Difference]:
    """Every key in which recipes differ, the unfair ones first.

    Args:
        recipes: by entry; whose seeds and names do not matter.
    """
    leaves = {entry: dict(_leaves(recipe)) for entry, recipe in recipes.items()}
    keys = dict.fromkeys(key for found in leaves.values() for key in found)
    found = [Difference(key, {entry: own.get(key) for entry, own in leaves.items()}, is_own(key)) for key in keys]
    differing = [one for one in found if len({repr(value) for value in one.values.values()}) > 1]
    return sorted(differing, key=lambda one: one.fair)


def is_own(key: str) -> bool:
    """Whether a key may differ between the methods."""
    return _within(key, OWN) and not _within(key, SHARED)


def _within(key: str, sections: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def _leaves(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """The recipe's keys, with what follows from several of them as keys of its own."""
    content = recipe.model_dump(mode="json")
    content["backbone"].pop("cifar_stem")
    yield "backbone.stem", describe_stem(recipe)
    yield "crops", describe_crops(recipe)
    if recipe.method_kwargs.get("supervised", solo_learn.own_method(recipe.method).labels):
        yield LABELS, "in the loss"
    content["augmentations"] = [
        {key: value for key, value in pipeline.items() if key not in ("num_crops", "crop_size")}
        for pipeline in content["augmentations"]
        for _ in range(pipeline["num_crops"])
    ]
    yield from ((key, value) for key, value in flat(content) if not _within(key, LEFT_OUT))


def describe_crops(recipe: Recipe) -> str:
    """``2 x 224 px, 6 x 96 px``: how many pixels a method may look at."""
    counts = {side: sum(a.num_crops for a in recipe.augmentations if a.crop_size == side) for side in recipe.crop_sizes}
    return ", ".join(f"{count} x {side} px" for side, count in counts.items())


def notes(recipes: Mapping[str, Recipe]) -> Iterator[str]:
    """What methods have by nature that others have not, in words."""
    for entry, recipe in recipes.items():
        if told := solo_learn.note(recipe.method, recipe.method_kwargs):
            yield f"{entry} {told}"


def unequally_tuned(recipes: Mapping[str, Recipe], by_hand: Mapping[str, bool]) -> str | None:
    """A method whose settings were chosen on this data beside one whose were not, in words; None where all are alike.

    Variants of a single method are alike: an ablation is no competition.

    Args:
        recipes: by entry.
        by_hand: whether the comparison gives the entry settings of its own.
    """
    tuned: dict[str, bool] = {}
    for entry, recipe in recipes.items():
        chosen_here = recipe.tuned == recipe.data.dataset or by_hand[entry]
        tuned[recipe.method] = tuned.get(recipe.method, False) or chosen_here
    yes, no = ([method for method, is_tuned in tuned.items() if is_tuned is kind] for kind in (True, False))
    if not yes or not no:
        return None
    return f"settings of {', '.join(yes)} were chosen on this data, those of {', '.join(no)} were not"
