"""Small recipes for tests: real digits, a network that trains in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from solo_bam import solo_learn
from solo_bam.config import Recipe, load_recipe, recipe_folders
from solo_bam.config.find import recipe_names

_WITH_A_PART = {path.stem for path in (recipe_folders("pretrain") / "methods").glob("*.yaml")}
# Of the installed edition; another test may have registered more.
METHODS = sorted(_WITH_A_PART & {*solo_learn.method_names()})
TINY = [
    "data.fraction=0.05",
    "optimizer.batch_size=16",
    "augmentations.0.crop_size=16",
    "backbone.name=test_resnet",  # of timm: 0.4 million weights
    "backbone.cifar_stem=False",
    "scheduler.warmup_epochs=0",
    "max_epochs=1",
    "enable_progress_bar=False",
    "enable_model_summary=False",
    "log_every_n_steps=1",
    "checkpoint.frequency=1",
    "accelerator=cpu",
    "knn_eval.enabled=True",
    "knn_eval.train_fraction=1",
]


def tiny_overrides(folder: Path, *overrides: str) -> list[str]:
    """71 training images, 4 steps an epoch."""
    return [*TINY, f"checkpoint.dir={folder}", *overrides]


def tiny(folder: Path, name: str = "digits/bam", *overrides: str) -> Recipe:
    """A checked recipe of :func:`tiny_overrides`."""
    return load_recipe(name, tiny_overrides(folder, *overrides))


def batch(labels: Any, crops: int = 2, size: int = 16) -> list[Any]:
    """One batch as solo-learn's methods want it, of random images."""
    import torch

    labels = torch.as_tensor(labels)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(len(labels), 3, size, size, generator=generator) for _ in range(crops)]
    return [torch.arange(len(labels)), images, labels]


def shipped() -> list[str]:
    """Names of the shipped recipes that the installed edition can train."""
    names = recipe_names(recipe_folders("pretrain"))
    return [name for name in names if name.rpartition("/")[2] not in _WITH_A_PART - {*METHODS}]


def known_kwargs(method: str) -> set[str]:
    """The ``method_kwargs`` that a method takes on the installed edition."""
    model = solo_learn.options_model(method)
    return set(solo_learn.own_options(method) if model is None else model.model_fields)


# Widths that train in seconds; on the head edition some keys have no default.
_SMALL = {
    "proj_hidden_dim": 32, "proj_output_dim": 16, "pred_hidden_dim": 32, "num_prototypes": 16, "queue_size": 64,
    "whitening_size": 8, "temperature": 0.2, "temperature_q": 0.1, "temperature_k": 0.04,
    "warmup_teacher_temperature_epochs": 1, "decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2,
    "top_k_sink": 4, "num_slices": 32,
}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "deepclusterv2": {"num_prototypes": "[4,4]"},
    "wmse": {"proj_output_dim": 4},
    "lightly": {"projector_kwargs": "{hidden_dim: 32, output_dim: 16}"},
    "lightly_momentum": {
        "projector_kwargs": "{hidden_dim: 32, output_dim: 16}",
        "predictor_kwargs": "{hidden_dim: 32, output_dim: 16}",
    },
}


def small_head(method: str) -> list[str]:
    """Overrides that make a method's head small; MAE's network, too, which is none of the others'."""
    values = {**_SMALL, **_OWN.get(method, {})}
    kwargs = [f"method_kwargs.{key}={value}" for key, value in values.items() if key in known_kwargs(method)]
    vit = ["backbone.name=vit_tiny", "backbone.kwargs.patch_size=4"] if method == "mae" else []
    return [*kwargs, *vit]


def small(method: str) -> list[str]:
    """Overrides that make a small one of solo-learn's methods out of another's recipe."""
    return [f"method={method}", "~method_kwargs", *small_head(method)]
