"""Records of what solo-learn itself measures during a pretraining: its online linear head and its online k-NN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from solo_bam.config import Recipe
from solo_bam.data.datasets.images import Split
from solo_bam.data.datasets.sources import told
from solo_bam.runs.checkpoints.read import hash_weights
from solo_bam.runs.protocols import KNN, OnlineLinear
from solo_bam.runs.records import Record, accuracies

_LINEAR = {
    "student": {"val_acc1": "accuracy", "val_acc5": "accuracy@5"},
    "teacher": {"momentum_val_acc1": "accuracy", "momentum_val_acc5": "accuracy@5"},
}
_KNN = {"student": {"val_knn_acc1": "accuracy", "val_knn_acc5": "accuracy@5"}}


def online_records(
    recipe: Recipe, metrics: Mapping[str, float], model: Any, val: Split, checkpoint: str | None
) -> list[Record]:
    """The last epoch's accuracies with their protocols.

    Args:
        recipe: of the run.
        metrics: at its end.
        model: the trained method.
        val: the validation images.
        checkpoint: of the run's end.
    """
    images, name = len(val), told(recipe.data, val, recipe.data.val_name)
    networks = {"student": model.backbone, "teacher": getattr(model, "momentum_backbone", None)}
    weights = {branch: hash_weights(network) for branch, network in networks.items() if network is not None}
    about = {"data": name, "method": recipe.method, "epoch": recipe.max_epochs, "checkpoint": checkpoint}
    records = []
    for names, protocol in ((_LINEAR, OnlineLinear.of(recipe)), (_KNN, KNN.of_solo_learn(recipe))):
        for branch, metrics_of_branch in names.items():
            values = {metric: metrics[key] for key, metric in metrics_of_branch.items() if key in metrics}
            of_weights = {"branch": branch, "weights": weights.get(branch)}
            records += accuracies(values, images, protocol=protocol, **of_weights, **about)
    return records
