"""Names that a recipe or a command may give, each with a few words."""

from __future__ import annotations

from collections.abc import Iterable

from solo_bam.config.find import first_sentence, recipe_folders, recipe_names
from solo_bam.config.known import known

Lines = Iterable[tuple[str, str]]  # name, a few words
DATASETS = {
    "digits": "scikit-learn's 1,797 handwritten digits, made on first use",
    "cifar10": "50,000 images of 32 px, 10 classes; downloaded where missing",
    "cifar100": "50,000 images of 32 px, 100 classes; downloaded where missing",
    "stl10": "105,000 images of 96 px, 5,000 of them labelled, 10 classes; downloaded where missing",
    "imagenet100": "a hundred classes of ImageNet; class folders or HDF5 files",
    "imagenet": "1,000 classes; class folders or HDF5 files",
    "custom": "your own class folders, images without labels (data.no_labels=True), or HDF5 files",
}
METRICS = {
    "train_loss": "of the method and the online linear head together",
    "val_acc1": "online linear head on the validation images, %; val_acc5: top-5",
    "knn_acc1": "k-NN against clean training images, %; knn_eval.freq: every so many epochs",
    "val_knn_acc1": "solo-learn's k-NN against augmented crops, %; knn_eval.enabled=True",
    "momentum_knn_acc1": "knn_acc1 of the momentum teacher",
    "rankme": "effective rank of the features, 1 to the smaller of images and dimensions",
    "feature_spread": "standard deviation of unit-length features, 0 (collapsed) to 1",
    "projection_spread": "the same of the projections, which a collapse is told by",
}


def recipes(kind: str) -> Lines:
    """The shipped ones of a kind, by their first comment; light."""
    folder = recipe_folders(kind)
    return ((name, first_sentence(folder, name)) for name in recipe_names(folder))


def methods() -> Lines:
    """Those that a recipe may name."""
    return known()["methods"].items()


def backbones() -> Lines:
    """solo-learn's, and all of timm's that do not share a name with one of them."""
    return known()["backbones"].items()


def metrics() -> Lines:
    """What every run may log, and what methods log beside it."""
    return {**METRICS, **known()["metrics"]}.items()
