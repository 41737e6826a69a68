"""Records of what solo-learn itself measures during a pretraining: its online linear head and its online k-NN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from solo_bam.config import Recipe
from solo_bam.data.datasets.images import Split
from solo_bam.data.datasets.sources import told
from solo_bam.data.transforms.augmentations import describe_plain_view
from solo_bam.runs.checkpoints.read import hash_weights
from solo_bam.runs.records import Plain, Record, wilson_interval

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
    linear, knn = _protocols(recipe)
    networks = {"student": model.backbone, "teacher": getattr(model, "momentum_backbone", None)}
    weights = {branch: hash_weights(network) for branch, network in networks.items() if network is not None}
    return [
        Record(
            metric=metric,
            value=metrics[key],
            interval=wilson_interval(metrics[key] / 100, images),
            images=images,
            data=name,
            protocol=protocol,
            method=recipe.method,
            branch=branch,
            epoch=recipe.max_epochs,
            weights=weights[branch],
            checkpoint=checkpoint,
        )
        for names, protocol in ((_LINEAR, linear), (_KNN, knn))
        for branch, metrics_of_branch in names.items()
        for key, metric in metrics_of_branch.items()
        if key in metrics
    ]


def _protocols(recipe: Recipe) -> tuple[dict[str, Plain], dict[str, Plain]]:
    """Of the linear layer and of the k-NN."""
    crop = describe_plain_view(recipe.augmentations[0])
    linear: dict[str, Plain] = {
        "kind": "linear",
        "online": True,
        "probe": "a linear layer trained beside the method, on detached features of the augmented large crops",
        "lr": recipe.optimizer.classifier_lr,
        "crop": crop,
    }
    knn: dict[str, Plain] = {
        "kind": "k-NN",
        "online": True,
        "bank": "train, the last epoch's augmented crops",
        "k": recipe.knn_eval.k,
        "temperature": recipe.knn_eval.temperature,
        "distance": recipe.knn_eval.distance_func,
        "crop": crop,
    }
    return linear, knn
