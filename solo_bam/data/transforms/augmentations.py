"""Crops: a recipe's ``augmentations`` as torchvision pipelines, and the plain view for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from PIL import Image
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from solo_bam.config.schema import Augmentation
from solo_bam.data.transforms.contrastive_crop import Box, ContrastiveCrop
from solo_bam.solo_learn import GaussianBlur

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Per-channel mean and standard deviation of the training images in [0, 1].
MEAN_STD: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "digits": ((0.3053,) * 3, (0.3760,) * 3),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261)),
}

_STRIP = 16  # times as long as wide: more of an image is not looked at in the plain view

Transform = Callable[[Image.Image], Tensor]


def mean_and_std(dataset: str, augmentation: Augmentation) -> tuple[Sequence[float], Sequence[float]]:
    """What images in [0, 1] are normalised by, per channel: the recipe's, else the dataset's, else ImageNet's."""
    mean, std = MEAN_STD.get(dataset, IMAGENET)
    return augmentation.mean or mean, augmentation.std or std


def _normalisation(dataset: str, augmentation: Augmentation) -> list[Callable[..., Tensor]]:
    return [T.ToTensor(), T.Normalize(*mean_and_std(dataset, augmentation))]


def build_pipeline(dataset: str, a: Augmentation, alpha: float | None = None) -> T.Compose:
    """One pipeline of random operations, in solo-learn's order (the affine map right after the crop).

    Args:
        dataset: names the normalisation, unless ``mean`` and ``std`` are given.
        a: one entry of the recipe's ``augmentations``.
        alpha: of ContrastiveCrop's law; None: torchvision's crop.
    """
    bicubic = T.InterpolationMode.BICUBIC
    steps: list[Callable[..., object]] = []
    if a.rrc.enabled:
        scale = (a.rrc.crop_min_scale, a.rrc.crop_max_scale)
        crop = T.RandomResizedCrop if alpha is None else partial(ContrastiveCrop, alpha=alpha)
        steps.append(crop(a.crop_size, scale=scale, interpolation=bicubic))
    else:
        steps.append(T.Resize((a.crop_size, a.crop_size), interpolation=bicubic))
    if a.affine.prob:
        affine = T.RandomAffine(
            a.affine.degrees,
            translate=(a.affine.translate, a.affine.translate),
            scale=a.affine.scale,
            shear=a.affine.shear,
            interpolation=T.InterpolationMode.BILINEAR,
        )
        steps.append(T.RandomApply([affine], a.affine.prob))
    if a.color_jitter.prob:
        j = a.color_jitter
        jitter = T.ColorJitter(j.brightness, j.contrast, j.saturation, j.hue)
        steps.append(T.RandomApply([jitter], j.prob))
    if a.grayscale.prob:
        steps.append(T.RandomGrayscale(a.grayscale.prob))
    if a.gaussian_blur.prob:
        steps.append(T.RandomApply([GaussianBlur()], a.gaussian_blur.prob))
    if a.solarization.prob:
        steps.append(T.RandomSolarize(128, a.solarization.prob))
    if a.equalization.prob:
        steps.append(T.RandomEqualize(a.equalization.prob))
    if a.horizontal_flip.prob:
        steps.append(T.RandomHorizontalFlip(a.horizontal_flip.prob))
    return T.Compose([*steps, *_normalisation(dataset, a)])


class Crops:
    """All crops of one image, pipeline by pipeline: a list of ``(3, size, size)`` tensors.

    Args:
        dataset: names the normalisation.
        augmentations: of the recipe.
        alpha: of ContrastiveCrop's law; None: torchvision's crops, and boxes are left alone.
    """

    def __init__(self, dataset: str, augmentations: Sequence[Augmentation], alpha: float | None = None):
        self.pipelines = [(build_pipeline(dataset, a, alpha), a.num_crops) for a in augmentations]

    def __call__(self, image: Image.Image, box: Box | None = None) -> list[Tensor]:
        return [_apply(pipeline, image, box) for pipeline, count in self.pipelines for _ in range(count)]

    def __repr__(self) -> str:
        return "\n".join(f"{count} x {pipeline}" for pipeline, count in self.pipelines)


def _apply(pipeline: T.Compose, image: Image.Image, box: Box | None) -> Tensor:
    crop, *rest = pipeline.transforms
    view = crop(image, box) if isinstance(crop, ContrastiveCrop) else crop(image)
    for step in rest:
        view = step(view)
    return view


def resized(dataset: str, a: Augmentation) -> Transform:
    """The whole image, resized plainly to the crops' size: what ContrastiveCrop's heat maps are made of."""
    pipeline: Transform = T.Compose([T.Resize((a.crop_size, a.crop_size)), *_normalisation(dataset, a)])
    return pipeline


def plain_view(dataset: str, a: Augmentation) -> Transform:
    """The deterministic view for validation, at the large crops' size.

    Images of more than 64 px are resized so that the crop covers 87.5 % of the side, as usual on ImageNet;
    smaller ones are used whole.
    """
    side, size = _plain_sizes(a)
    steps = [T.Lambda(middle), T.Resize(side, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(size)]
    pipeline: Transform = T.Compose([*steps, *_normalisation(dataset, a)])
    return pipeline


def middle(image: Image.Image) -> Image.Image:
    """The middle of a strip, which would be gigabytes once its short side is resized; other images as they are."""
    longest = _STRIP * min(image.size)
    if max(image.size) <= longest:
        return image
    cut: Image.Image = TF.center_crop(image, [min(image.height, longest), min(image.width, longest)])
    return cut


def _plain_sizes(a: Augmentation) -> tuple[int, int]:
    """Sides to resize to and to crop, in pixels."""
    return a.crop_size if a.crop_size <= 64 else round(a.crop_size / 0.875), a.crop_size


def describe_plain_view(a: Augmentation) -> str:
    """What :func:`plain_view` does, for a protocol."""
    side, size = _plain_sizes(a)
    return f"resize {side}, centre crop {size}"
