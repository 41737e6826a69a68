"""Pretrain on handwritten digits and show what was learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from solo_bam.config import Recipe
from solo_bam.core.errors import UserError
from solo_bam.data import find_source
from solo_bam.data.transforms.augmentations import plain_view
from solo_bam.evaluate import Features, extract_features, few_shot_knn, knn, linear, pixel_features
from solo_bam.runs.checkpoints.read import hash_weights, untrained_backbone
from solo_bam.runs.protocols import Other
from solo_bam.runs.records import Record, write_records
from solo_bam.train.run import Trained, pretrain

_PER_CLASS = 10
_COLUMNS = (f"k-NN, {_PER_CLASS} labels per class", "k-NN, all labels", "linear, all labels")
_KNN: dict[str, Any] = {"kind": "k-NN", "temperature": 0.07, "distance": "cosine"}
_PROTOCOLS: dict[str, dict[str, Any]] = {
    _COLUMNS[0]: {**_KNN, "k": 5, "labels": f"{_PER_CLASS} per class, mean of ten draws"},
    _COLUMNS[1]: {**_KNN, "k": 20, "labels": "all"},
    _COLUMNS[2]: {"kind": "linear", "probe": "logistic regression (L2, C = 1), standardised features", "labels": "all"},
}


def demo(recipe: Recipe) -> None:
    """Train, evaluate, print a table and write ``demo.json``, ``demo.png`` and the run under ``demo/``.

    Raises:
        UserError: the recipe's data have no labelled validation images, or it cannot be trained.
    """
    source = find_source(recipe.data)
    if source.val is None:
        raise UserError("data.val_path", "is missing, the demo needs labelled validation images", "use the digits")
    view = plain_view(recipe.data.dataset, recipe.augmentations[0])
    train, val = source.train(view), source.val(view)

    pixels = (pixel_features(train), pixel_features(val))
    table = {"pixels": _accuracies(*pixels), "untrained network": _of_backbone(untrained_backbone(recipe), train, val)}
    trained = pretrain(recipe)
    backbone: nn.Module = trained.model.backbone  # type: ignore[assignment]
    row = table[f"{recipe.method}, {recipe.max_epochs} epochs"] = _of_backbone(backbone, train, val)

    print(format_table(table, images=len(pixels[1].labels)))
    folder = trained.folder.path
    write_records(folder / "evaluation", "demo", _records(recipe, trained, row, len(train), len(val)))
    (folder / "demo.json").write_text(json.dumps({"seed": recipe.seed, "accuracy": table}, indent=2) + "\n")
    _draw(table, folder)
    print(f"Run: {folder}")


def _records(recipe: Recipe, trained: Trained, row: dict[str, float], bank: int, images: int) -> list[Record]:
    """The trained network's numbers with their protocols."""
    backbone: nn.Module = trained.model.backbone  # type: ignore[assignment]
    return [
        Record(
            metric="accuracy",
            value=row[column],
            images=images,
            data="digits val",
            protocol=Other(**{"bank": f"train, clean ({bank} images)", **_PROTOCOLS[column]}),
            method=recipe.method,
            branch="student",
            epoch=recipe.max_epochs,
            weights=hash_weights(backbone),
            checkpoint=str(trained.folder.last_checkpoint),
        )
        for column in _COLUMNS
    ]


def _of_backbone(backbone: nn.Module, train: Dataset[Any], val: Dataset[Any]) -> dict[str, float]:
    return _accuracies(extract_features(backbone, train), extract_features(backbone, val))


def _accuracies(train: Features, val: Features) -> dict[str, float]:
    values = (few_shot_knn(train, val, _PER_CLASS), knn(train, val), linear(train, val))
    return dict(zip(_COLUMNS, values))


def format_table(table: dict[str, dict[str, float]], images: int) -> str:
    """Accuracies as plain text, a row per feature."""
    width = max(map(len, table))
    lines = ["", f"Accuracy (%) on {images} validation images, features frozen:", ""]
    lines.append(" " * width + "".join(f"  {name:>26}" for name in _COLUMNS))
    for name, row in table.items():
        lines.append(f"{name:<{width}}" + "".join(f"  {row[column]:>26.1f}" for column in _COLUMNS))
    return "\n".join([*lines, ""])


def _draw(table: dict[str, dict[str, float]], folder: Path) -> None:
    try:
        from solo_bam.plots.bars import draw_bars
    except ImportError:
        return  # pretraining has said what to install
    draw_bars(table, folder / "demo.png", title="What the features know about handwritten digits", unit="accuracy (%)")
    print(f"Pictures: {folder / 'curves.png'}, {folder / 'demo.png'}")
