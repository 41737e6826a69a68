"""How numbers were measured: a class for each kind of measurement. Numbers may be compared where they are equal.

A protocol is written by the names that footnotes show. ``version`` of a class rises when the same settings come to mean
another measurement; it is written where it is not 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from solo_bam.config.linear import LinearRecipe
from solo_bam.config.options import DavisOptions, transferred_from
from solo_bam.config.schema import Data, Recipe
from solo_bam.core.hardware import find_devices, precision_as_run

if TYPE_CHECKING:  # they import torch
    from solo_bam.data.datasets.davis import Video
    from solo_bam.data.datasets.images import Split
    from solo_bam.data.labelled import LabelledData

Plain = str | int | float | bool | None
_HELD_OUT, _TIMES_BATCH = " held-out training images", " (x batch / 256)"


def _unless(default: Plain) -> Any:
    """A field that is written only where it is not the default."""
    return Field(default, exclude_if=lambda value: value == default)


class Protocol(BaseModel):
    """Everything that would change a number for the same weights; ``online``: whether during pretraining."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_by_name=True, validate_by_alias=True,
        serialize_by_alias=True, alias_generator=lambda name: name.replace("_", " "),
    )  # fmt: skip

    headline: ClassVar[bool] = True  # whether a comparison's one sentence tells it, where it has been measured

    kind: str
    online: bool = False
    version: Literal[1] = _unless(1)

    @property
    def settings(self) -> dict[str, Plain]:
        """All of it, as it is written."""
        return self.model_dump()

    @property
    def title(self) -> str:
        """Short, for the head of a column."""
        k = getattr(self, "k", None)
        return f"{'online ' * self.online}{self.kind}" + ("" if k is None else f" (k = {k})")

    def stated(self, data: str) -> str:
        """In one line, for the footnote of a number that was measured on these data."""
        told = {name: v for name, v in self.settings.items() if name not in ("kind", "online") and v is not None}
        words = ", ".join(f"{name} {v:g}" if isinstance(v, float) else f"{name} {v}" for name, v in told.items())
        return f"{self.kind} ({'online' if self.online else 'offline'}) on {data}: {words}"

    def key(self, *of: str) -> str:
        """Eight hexadecimal digits of the protocol and of what else must be the same."""
        content = json.dumps([*of, self.settings], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:8]


# ------------------------------------------------------------------------------------------------- k-NN


class KNN(Protocol):
    """Weighted k-nearest-neighbor classification.

    ``queries``: the share of the test images; None for solo-learn's own. ``temperature``: None for Euclidean distance.
    ``pretrained_on``: the data set of the weights, where it is another one.
    """

    kind: Literal["k-NN"] = "k-NN"
    bank: str
    queries: str | None = _unless(None)
    k: int
    temperature: float | None
    distance: Literal["cosine", "euclidean"]
    crop: str
    precision: str = _unless("32")
    pretrained_on: str | None = _unless(None)

    @classmethod
    def offline(cls, trained_by: Recipe, data: Data, bank: Split, **vote: Any) -> KNN:
        """Of a checkpoint that one recipe trained, against the labeled images ``bank`` of ``data``."""
        from solo_bam.data.datasets.sources import told

        share = "all" if data.fraction <= 0 else f"{100 * data.fraction:g} %"
        where = f"{told(data, bank, 'train', contents=False)}, clean, {share} ({len(bank)} images)"
        origin = transferred_from(trained_by.data, data)
        return cls(bank=where, queries="all", crop=_plain_view(trained_by), pretrained_on=origin, **vote)

    @classmethod
    def during(cls, recipe: Recipe, images: int) -> KNN:
        """Of a pretraining, against so many clean training images."""
        from solo_bam.data.datasets.subsets import describe_share

        options, share = recipe.knn_eval, recipe.data.fraction
        drawn_from = "train" if share <= 0 else f"{100 * share:g} % of train"
        return cls(
            online=True,
            bank=f"{drawn_from}, clean, {describe_share(options.train_fraction)} ({images} images)",
            queries=describe_share(options.eval_fraction),
            k=options.k,
            temperature=options.temperature,
            distance="cosine",
            crop=_plain_view(recipe),
            precision=precision_as_run(32, find_devices(recipe.accelerator, recipe.devices).accelerator),
        )

    @classmethod
    def of_solo_learn(cls, recipe: Recipe) -> KNN:
        """Of solo-learn's own online k-NN."""
        options, bank = recipe.knn_eval, "train, the last epoch's augmented crops"
        vote: dict[str, Any] = {"k": options.k, "temperature": options.temperature, "distance": options.distance_func}
        return cls(online=True, bank=bank, crop=_plain_view(recipe), **vote)


def _plain_view(recipe: Recipe) -> str:
    from solo_bam.data.transforms.augmentations import describe_plain_view

    return describe_plain_view(recipe.augmentations[0])


# ----------------------------------------------------------------------------------------------- linear


def _rates(value: Any) -> Any:
    return tuple(map(float, value.removesuffix(_TIMES_BATCH).split(", "))) if isinstance(value, str) else value


def _exact(rate: float) -> str:
    return next(told for told in (f"{rate:g}", repr(rate)) if float(told) == rate)


def _chosen_on(value: Any) -> Any:
    return int(value.removesuffix(_HELD_OUT)) if isinstance(value, str) and value.endswith(_HELD_OUT) else value


class OnlineLinear(Protocol):
    """solo-learn's linear layer, trained beside the method."""

    kind: Literal["linear"] = "linear"
    online: Literal[True] = True
    probe: str = "a linear layer trained beside the method, on detached features of the augmented large crops"
    lr: float
    crop: str

    @classmethod
    def of(cls, recipe: Recipe) -> OnlineLinear:
        """Of a pretraining."""
        return cls(lr=recipe.optimizer.classifier_lr, crop=_plain_view(recipe))


class Linear(Protocol):
    """A linear layer on frozen features, or a fine-tuned network.

    ``learning_rate``: all that were tried, for a batch of 256. ``chosen_on``: so many held-out training images.
    ``batch``: of all processes. ``training_images``: how many and, of one's own, which.
    """

    kind: Literal["linear", "finetune"]
    probe: Literal["linear", "batch norm and linear"]
    blocks: int
    avgpool: bool
    epochs: int
    optimizer: Literal["sgd", "lars", "adam", "adamw"]
    learning_rate: Annotated[
        tuple[float, ...],
        BeforeValidator(_rates),
        PlainSerializer(lambda rates: ", ".join(map(_exact, rates)) + _TIMES_BATCH),
    ]
    chosen_on: Annotated[
        int | Literal["the validation images"] | None,
        BeforeValidator(_chosen_on),
        PlainSerializer(lambda images: f"{images}{_HELD_OUT}" if isinstance(images, int) else images),
    ]
    layer_decay: float | None
    weight_decay: float
    scheduler: Literal["warmup_cosine", "cosine", "step", "none"]
    batch: int
    crop: int
    augmentation: str
    mixup: float | None
    cutmix: float | None
    label_smoothing: float | None
    loader: Literal["torchvision"] = "torchvision"
    training_images: Annotated[str, BeforeValidator(lambda images: str(images) if type(images) is int else images)]
    label_fraction: float
    precision: str
    seed: int
    pretrained_on: str | None = _unless(None)

    @classmethod
    def of(cls, recipe: LinearRecipe, data: LabelledData, trained_by: Recipe | None, world_size: int) -> Linear:
        """Of a completed recipe, in so many processes."""
        from solo_bam.data.datasets.sources import told

        options, tune = recipe.optimizer, data.tune_split
        crop = recipe.data.augmentations.crop_size
        assert crop is not None
        return cls(
            kind="finetune" if recipe.finetune else "linear",
            probe="batch norm and linear" if recipe.probe.batch_norm else "linear",
            blocks=recipe.probe.blocks,
            avgpool=recipe.probe.avgpool,
            epochs=recipe.max_epochs,
            optimizer=options.name,
            learning_rate=tuple(options.lr),
            chosen_on=None if len(options.lr) == 1 else "the validation images" if tune is None else len(tune),
            layer_decay=options.layer_decay or None,
            weight_decay=options.weight_decay,
            scheduler=recipe.scheduler.name,
            batch=options.batch_size * world_size,
            crop=crop,
            augmentation=_augmentation(recipe),
            mixup=recipe.mixup or None,
            cutmix=recipe.cutmix or None,
            label_smoothing=recipe.label_smoothing or None,
            training_images=told(recipe.data, data.train_split, str(len(data.train_split)), contents=False),
            label_fraction=recipe.data.label_fraction,
            precision=precision_as_run(recipe.precision, find_devices(recipe.accelerator, recipe.devices).accelerator),
            seed=recipe.seed,
            pretrained_on=transferred_from(trained_by.data, recipe.data) if trained_by else None,
        )


def _augmentation(recipe: LinearRecipe) -> str:
    if recipe.auto_augment:
        return "RandAugment and random erasing"
    crop = recipe.data.augmentations
    names = [f"random crop {crop.rrc.crop_min_scale:g} to {crop.rrc.crop_max_scale:g}"] if crop.rrc.enabled else []
    names += [f"flip {crop.horizontal_flip.prob:g}"] if crop.horizontal_flip.prob else []
    return " and ".join(names) or "none"


# ----------------------------------------------------------------------------------------------- others


class Health(Protocol):
    """A measure of features that needs no labels."""

    kind: Literal["RankMe", "alpha-ReQ", "alignment", "uniformity", "spread", "LiDAR"]
    images: int
    view: Literal[
        "plain",
        "two random crops by the recipe's first augmentation",
        "10 random crops by the recipe's first augmentation",
    ]
    fit_from_rank: int | None = _unless(None)
    to_rank: int | None = _unless(None)
    power: int | None = _unless(None)
    t: int | None = _unless(None)


class Logistic(Protocol):
    """Multinomial logistic regression (L2, L-BFGS) on features of unit length.

    ``labels``: of which training images. ``C``: how it was chosen. ``draws``: of the labels; the number is their mean.
    ``corruptions``: of the test images; the number is the mean over them and their severities. ``bins``: of the
    calibration error.
    """

    headline = False  # nine of `transfer`: no sentence holds them

    kind: Literal["logistic regression"] = "logistic regression"
    labels: str
    training_images: str
    C: str
    draws: int | None = _unless(None)
    corruptions: str | None = _unless(None)
    bins: int | None = _unless(None)
    crop: str
    precision: str = _unless("32")
    pretrained_on: str | None = _unless(None)

    @property
    def title(self) -> str:
        """Short, for the head of a column."""
        return f"logistic, {self.corruptions or self.labels}"

    @classmethod
    def of(cls, trained_by: Recipe, data: Data, bank: Split, **how: Any) -> Logistic:
        """On some of the labeled images ``bank`` of ``data``, of a checkpoint that one recipe trained."""
        from solo_bam.data.datasets.sources import told

        where = told(data, bank, f"{len(bank)}", contents=False)
        origin = transferred_from(trained_by.data, data)
        return cls(training_images=where, crop=_plain_view(trained_by), pretrained_on=origin, **how)


class VideoSegmentation(Protocol):
    """Label propagation; ``files``: digest of the videos, ``sequences`` and ``objects``: so many that were scored."""

    model_config = ConfigDict(alias_generator=None)

    kind: Literal["video segmentation"] = "video segmentation"
    features: str
    short_side: int
    n_last_frames: int
    size_mask_neighborhood: int
    topk: int
    temperature: float
    files: str | None = _unless(None)  # not told before 0.2
    sequences: int | None = _unless(None)
    objects: int | None = _unless(None)

    @classmethod
    def of(cls, options: DavisOptions, videos: Sequence[Video]) -> VideoSegmentation:
        """Before anything is scored."""
        files = "\n".join(video.digest() for video in videos).encode("utf-8", "surrogateescape")
        own = options.model_dump(include=set(cls.model_fields))
        return cls(features=options.layer or "last layer", files=hashlib.sha256(files).hexdigest()[:8], **own)


class Other(Protocol):
    """What has no class here (the demo's, others' own, a later version's): kept, shown and compared as it is."""

    model_config = ConfigDict(extra="allow", alias_generator=None)
    __pydantic_extra__: dict[str, Plain]

    kind: str = _unless("unknown")
    version: int = _unless(1)  # type: ignore[assignment]


AnyProtocol = Annotated[
    KNN | OnlineLinear | Linear | Logistic | Health | VideoSegmentation | Other, Field(union_mode="left_to_right")
]
