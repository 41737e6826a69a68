"""The records of a classifier: its accuracies with everything that would change them."""

from __future__ import annotations

from typing import Any

from solo_bam.config.linear import LinearRecipe
from solo_bam.config.schema import Recipe
from solo_bam.data.datasets.sources import told
from solo_bam.data.labelled import LabelledData
from solo_bam.evaluate.tally import TOP, Tally
from solo_bam.runs.protocols import Linear
from solo_bam.runs.records import Record, accuracies


def classifier_records(
    recipe: LinearRecipe,
    data: LabelledData,
    tally: Tally,
    best: int,
    about: dict[str, Any],
    trained_by: Recipe | None,
    world_size: int,
) -> list[Record]:
    """Accuracies on the validation images, and the learning rate where one was chosen.

    Args:
        recipe: a completed recipe.
        data: what it was trained and tested on.
        tally, best: of the validation images, and the head that is reported.
        about: fields that say which weights were measured.
        trained_by: the pretraining's recipe, None where nothing says it.
        world_size: processes.
    """
    protocol = Linear.of(recipe, data, trained_by, world_size)
    place = told(recipe.data, data.val_split, recipe.data.source.val_name)
    values = {"accuracy": tally.accuracies[best]}
    if data.num_classes > TOP:
        values[f"accuracy@{TOP}"] = tally.top_accuracies[best]
    records = accuracies(values, tally.images, data=place, protocol=protocol, **about)
    if len(recipe.optimizer.lr) > 1:
        rate = recipe.optimizer.lr[best]
        records.append(Record(metric="learning rate", value=rate, unit="", data=place, protocol=protocol, **about))
    return records
