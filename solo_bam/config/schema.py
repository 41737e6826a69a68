"""The recipe's keys, types, ranges and defaults: solo-learn's head-edition schema and BAM's part.

Unknown keys are refused. Beside the keys listed in :class:`Recipe`, any argument of Lightning's ``Trainer``
may stand at the top level.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from solo_bam.config.section import Section

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sharpness = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]  # the loss's own limit
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Branch = Literal["student", "teacher"]  # that a checkpoint holds
Network = Literal["student", "teacher", "untrained"]  # of a run; the last: as it started
Name = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]*$", max_length=200)]  # of a folder


class RandomResizedCrop(Section):
    """Crop of a random area (share of the image) and aspect ratio (3/4 to 4/3); off: a plain resize."""

    enabled: bool = True
    crop_min_scale: Annotated[float, Field(gt=0, le=1)] = 0.08
    crop_max_scale: Annotated[float, Field(gt=0, le=1)] = 1.0


class Affine(Section):
    """Random rotation (degrees), shift (share of the side), zoom (factors) and shear (degrees)."""

    prob: Share = 0.0
    degrees: NonNegative = 0.0
    translate: Share = 0.0
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    shear: NonNegative = 0.0


class Chance(Section):
    """An operation applied with a probability.

    ``enabled`` stands in some of solo-learn's recipes, and nothing reads it: the probability alone counts.
    """

    prob: Share = 0.0
    enabled: bool = Field(default=True, exclude=True)

    @model_validator(mode="after")
    def _off_means_never(self) -> Chance:
        if not self.enabled and self.prob:
            raise ValueError("enabled=False needs prob=0, which alone is read")
        return self


class ColorJitter(Chance):
    """Random brightness, contrast, saturation (relative ranges) and hue (share of the circle)."""

    brightness: NonNegative = 0.0
    contrast: NonNegative = 0.0
    saturation: NonNegative = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class Augmentation(Section):
    """One pipeline, applied ``num_crops`` times to an image. Crops of the first pipeline's size are large."""

    crop_size: Count
    num_crops: Count
    rrc: RandomResizedCrop = RandomResizedCrop()
    affine: Affine = Affine()
    color_jitter: ColorJitter = ColorJitter()
    grayscale: Chance = Chance()
    gaussian_blur: Chance = Chance()
    solarization: Chance = Chance()
    equalization: Chance = Chance()
    horizontal_flip: Chance = Chance()
    mean: list[float] | None = None
    std: list[Positive] | None = None


class Backbone(Section):
    """``kwargs`` are the network's own (``img_size``: the large crops' unless given, …); null: not given.

    ``cifar_stem``: 3x3 first convolution and no max-pooling in a ResNet; null: where large crops are <= 64 px;
    2: with stride 2, which leaves a quarter of the arithmetic.
    ``fixed_positions`` and ``frozen_patches``, MoCo v3's habits, of ViTs: sine-cosine positions in place of learned
    ones; a patch projection that keeps its initial weights.
    """

    name: str
    kwargs: Annotated[dict[str, Any], AfterValidator(lambda d: {k: d[k] for k in d if d[k] is not None})] = {}
    cifar_stem: bool | Literal[2] | None = None
    fixed_positions: bool = False
    frozen_patches: bool = False


class Momentum(Section):
    """The teacher's decay: a cosine from ``base_tau`` to ``final_tau`` over all steps."""

    base_tau: Share = 0.99
    final_tau: Share = 1.0
    classifier: bool = False


class ContrastiveCropOptions(Section):
    """Crops inside the box around the object (Peng et al., CVPR 2022); names and defaults of the published code.

    ``interval``: epochs between two updates of the boxes, from the warm-up's end on. ``box_threshold``: of the
    heat map scaled to 0 ... 1. ``alpha``: of the Beta law of the centres, 1 is uniform.
    """

    enabled: bool = False
    alpha: Positive = 0.6
    box_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1
    interval: Count = 20


class ImageData(Section):
    """Where images come from; ``fraction`` of the training images, -1 for all.

    ``format: h5``: ``train_path`` and ``val_path`` are HDF5 files of class groups of encoded images. ``tensor``: a
    pretraining's images are all held in memory, on the device that trains, and augmented there.
    ``name``: what numbers call the data; null: ``dataset``.
    ``on_error``: ``stop`` at an image that cannot be read, or ``skip`` it (the next one takes its place).
    """

    dataset: Literal["digits", "cifar10", "cifar100", "stl10", "imagenet100", "imagenet", "custom"]
    name: Annotated[Name, Field(min_length=1)] | None = None
    train_path: Path | None = None
    val_path: Path | None = None
    format: Literal["image_folder", "h5", "dali", "tensor"] = "image_folder"
    on_error: Literal["stop", "skip"] = "stop"
    num_workers: Index = 4
    fraction: Annotated[float, Field(lt=1)] = -1

    @property
    def called(self) -> str:
        """The data's name for people."""
        return self.name or self.dataset


class Data(ImageData):
    """The images of a pretraining; ``no_labels``: their labels are missing or left alone.

    ``tune_fraction``: the share of the training images that is held out and takes the validation images' place, so
    that settings can be chosen without a look at those; the same images for every seed.
    """

    no_labels: bool = False
    tune_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    contrastive_crop: ContrastiveCropOptions = ContrastiveCropOptions()

    @property
    def val_name(self) -> str:
        """What accuracies are measured on: ``digits val``."""
        held_out = f"train, {100 * self.tune_fraction:g} % held out"
        return f"{self.called} {held_out if self.tune_fraction else 'val'}"


class Optimizer(Section):
    """``lr`` and, with a validation set, ``classifier_lr`` are multiplied by the global batch size / 256.

    ``weight_decay`` moves to ``weight_decay_end`` on a cosine over all steps, where that is given.
    """

    name: Literal["sgd", "lars", "adam", "adamw"]
    batch_size: Count
    lr: Positive
    classifier_lr: Positive = 0.1
    weight_decay: NonNegative = 0.0
    weight_decay_end: NonNegative | None = None
    exclude_bias_n_norm_wd: bool = False
    kwargs: dict[str, Any] = {}


class Scheduler(Section):
    """Learning-rate schedule; ``warmup_epochs`` in epochs whatever the ``interval``."""

    name: Literal["warmup_cosine", "cosine", "step", "none"]
    lr_decay_steps: list[int] | None = None
    min_lr: NonNegative = 0.0
    warmup_start_lr: NonNegative = 3e-5
    warmup_epochs: NonNegative = 10
    interval: Literal["step", "epoch"] = "step"


class Checkpoint(Section):
    """Runs are kept under ``dir``; a checkpoint every ``frequency`` epochs and always the last."""

    enabled: bool = True
    dir: Path = Path("trained_models")
    frequency: Count = 1
    keep_prev: bool = False


class AutoResume(Section):
    """Continue an unfinished run of the same recipe, no older than ``max_hours``."""

    enabled: bool = False
    max_hours: Positive = 36


class KNNEval(Section):
    """Two online k-NNs, each on or off; ``k`` and ``temperature`` are of both.

    ``enabled`` and ``distance_func`` are solo-learn's and mean what they mean there: after every epoch, against that
    epoch's augmented training crops, all of them kept in memory; logged as ``val_knn_acc1`` and ``val_knn_acc5``.

    ``freq`` switches on the other: every so many epochs and after the last, against clean training images in
    evaluation mode, by cosine; logged as ``knn_acc1`` and ``knn_acc5``, the teacher's with ``momentum_`` before it.
    ``train_fraction`` of the training images are its bank, ``eval_fraction`` of the validation images its queries,
    both class-balanced (1: all) and the same for every seed.
    """

    enabled: bool = False
    k: Count = 20
    temperature: Positive = 0.07
    distance_func: Literal["euclidean", "cosine"] = "euclidean"
    freq: Count | None = None
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    eval_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0


class Performance(Section):
    """``disable_channel_last``: keep the images' memory layout."""

    disable_channel_last: bool = False


class PretrainPerformance(Performance):
    """``compile``: compile backbone and heads, the teacher's too, with a C++ compiler: slow first steps,
    faster ones then, other last bits. The others forward again in the backward pass: less memory, a third more time.
    ``gradient_checkpointing``: block by block, of timm's networks without batch norm (ViTs, Swins, CAFormers).
    ``chunked_batch``: so many crops at a time; the loss sees all of them, batch norm those of a chunk.
    """

    compile: bool = False
    gradient_checkpointing: bool = False
    chunked_batch: Count | None = None


class Wandb(Section):
    """Weights & Biases, used only where asked for; needs the extra ``wandb``."""

    enabled: bool = False
    entity: str | None = None
    project: str = "solo-learn"
    offline: bool = False


class AutoUMAP(Section):
    """solo-learn's UMAP plots; accepted so that its recipes run, and not drawn."""

    enabled: Literal[False] = False
    dir: Path = Path("auto_umap")
    frequency: Count = 1


class Dali(Section):
    """Read only with ``data.format: dali``: where to decode and augment. solo-learn's ``encode_indexes_into_labels``
    changes nothing: here every batch has indexes and labels anyway.
    """

    device: Literal["gpu", "cpu"] = "gpu"
    encode_indexes_into_labels: bool = False


class Distributed(Section):
    """Several processes: ``timeout``, the seconds that one waits for the others before the run ends with an error."""

    timeout: Positive = 1800


class Run(Section):
    """What every training run needs. Arguments of Lightning's Trainer are accepted beside these keys."""

    model_config = ConfigDict(extra="allow")

    name: Name | None = None
    method: str
    checkpoint: Checkpoint = Checkpoint()
    auto_resume: AutoResume = AutoResume()
    resume_from_checkpoint: Path | None = None
    performance: Performance = Performance()
    wandb: Wandb = Wandb()
    dali: Dali = Dali()
    seed: Seed = 5

    max_epochs: Count
    accelerator: str = "auto"
    devices: int | str | list[int] = "auto"
    num_nodes: Count = 1
    strategy: str | None = "auto"
    precision: int | str = 32
    sync_batchnorm: bool = False
    distributed: Distributed = Distributed()
    accumulate_grad_batches: Count = 1

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Further Trainer arguments that the recipe gives."""
        return dict(self.__pydantic_extra__ or {})


class Recipe(Run):
    """A pretraining recipe.

    ``tuned``: the dataset that its rate and decay were chosen on; null: nobody has. ``on_collapse``: whether a training
    whose projections have become alike goes on with a warning, or is stopped with an error. ``pictures``: whether any
    are drawn at the end.
    """

    method_kwargs: dict[str, Any] = {}
    backbone: Backbone
    momentum: Momentum = Momentum()
    performance: PretrainPerformance = PretrainPerformance()
    data: Data
    augmentations: Annotated[list[Augmentation], Field(min_length=1)]
    optimizer: Optimizer
    scheduler: Scheduler
    knn_eval: KNNEval = KNNEval()
    auto_umap: AutoUMAP = AutoUMAP()
    tuned: str | None = None
    on_collapse: Literal["warn", "stop"] = "warn"
    debug_augmentations: bool = False
    pictures: bool = True

    @property
    def num_large_crops(self) -> int:
        """Crops of the first pipeline's size."""
        return sum(a.num_crops for a in self.augmentations if a.crop_size == self.augmentations[0].crop_size)

    @property
    def num_small_crops(self) -> int:
        """Crops of any other size."""
        return sum(a.num_crops for a in self.augmentations) - self.num_large_crops

    @property
    def crop_sizes(self) -> list[int]:
        """Sides of the crops in pixels, each once, the large crops' first."""
        return list(dict.fromkeys(a.crop_size for a in self.augmentations))
