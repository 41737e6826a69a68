"""ContrastiveCrop (Peng et al., CVPR 2022): random crops whose centres lie in the box around an image's object.

Boxes are shares of the image, ``(h_min, w_min, h_max, w_max)``. They come from heat maps of the network in
training (:mod:`solo_bam.train.callbacks.contrastive_crop`) and are used for all crops, large and small.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from solo_bam.config.schema import Recipe
from solo_bam.data.sampling import Seeded

Box = Sequence[float]
WHOLE = (0.0, 0.0, 1.0, 1.0)


class ContrastiveCrop(T.RandomResizedCrop):
    """torchvision's ``RandomResizedCrop`` with the centre drawn from Beta(alpha, alpha) inside a box.

    Args:
        size: side of the crop in pixels.
        alpha: above 0; 1 is uniform, below 1 the centres crowd at the box's borders, so that crops differ more.
        **kwargs: ``scale``, ``ratio``, ``interpolation`` as in torchvision.
    """

    def __init__(self, size: int, alpha: float, **kwargs: Any):
        super().__init__(size, **kwargs)
        self.alpha = alpha

    def forward(self, image: Any, box: Box | None = None) -> Any:
        """The resized crop; without a box exactly torchvision's.

        Args:
            image: PIL image or tensor ``(…, height, width)``.
            box: where the centre may lie.
        """
        if box is None:
            return super().forward(image)
        _, height, width = TF.get_dimensions(image)
        _, _, h, w = self.get_params(image, self.scale, self.ratio)
        top = _start(box[0], box[2], height, h, random.betavariate(self.alpha, self.alpha))
        left = _start(box[1], box[3], width, w, random.betavariate(self.alpha, self.alpha))
        return TF.resized_crop(image, top, left, h, w, self.size, self.interpolation)


def _start(low: float, high: float, side: int, length: int, draw: float) -> int:
    """First pixel of a crop of ``length``: its centre between two shares of ``side``, but the crop in the image."""
    first, last = (min(max(int(side * share) - length // 2, 0), side - length) for share in (low, high))
    return first + int((last - first) * draw)


# ------------------------------------------------------------------------------------------- boxes


def enlarge(heat: Tensor, height: int, width: int) -> Tensor:
    """Heat maps ``(N, h, w)`` each scaled to 0 … 1 and enlarged to ``(N, height, width)``, bilinearly."""
    heat = heat - heat.amin((1, 2), keepdim=True)
    heat = heat / (heat.amax((1, 2), keepdim=True) + 1e-5)
    return F.interpolate(heat[:, None], size=(height, width), mode="bilinear")[:, 0]


def boxes_from_heat(heat: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """The smallest box around all that is hotter than a threshold.

    Args:
        heat: ``(N, h, w)`` of any scale.
        height: of the images, in pixels.
        width: likewise.
        threshold: of the heat scaled to 0 … 1.

    Returns:
        ``(N, 4)`` shares of the image, from the first hot pixel's place to the last one's, as published; the
        whole image where a map is constant.
    """
    hot = enlarge(heat, height, width) > threshold
    (top, bottom), (left, right) = _extent(hot.any(2)), _extent(hot.any(1))
    boxes = torch.stack([top / height, left / width, bottom / height, right / width], dim=1)
    return torch.where(hot.any(2).any(1, keepdim=True), boxes, boxes.new_tensor(WHOLE))


def _extent(hot: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the first and the last True in each row of ``(N, length)``."""
    hot = hot.int()
    return hot.argmax(1), hot.shape[1] - 1 - hot.flip(1).argmax(1)


def whole_images(count: int) -> Tensor:
    """Boxes ``(count, 4)`` of the whole images, in memory that loader processes share."""
    return torch.tensor(WHOLE).repeat(count, 1).share_memory_()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class BoxSchedule:
    """When boxes are computed and used; epochs count from 0.

    Attributes:
        interval: epochs between two updates.
        warmup: epochs of the learning rate's warm-up, during which heat maps say little.
    """

    interval: int
    warmup: float

    @classmethod
    def of(cls, recipe: Recipe) -> BoxSchedule:
        """The schedule of a recipe."""
        warmup = recipe.scheduler.warmup_epochs if recipe.scheduler.name == "warmup_cosine" else 0.0
        return cls(recipe.data.contrastive_crop.interval, warmup)

    @property
    def first_use(self) -> int:
        """The first epoch whose crops are drawn in boxes."""
        return math.ceil(max(self.interval, self.warmup)) + 1

    def due(self, epoch: int, max_epochs: int) -> bool:
        """Whether boxes are computed at an epoch's end: every ``interval`` epochs after the warm-up.

        As in the published code, but for the boxes of epoch 0, which it replaces before it uses them.
        """
        return self.warmup <= epoch < max_epochs - 1 and epoch % self.interval == 0 and epoch > 0


# ------------------------------------------------------------------------------------------ images


def unchanged(image: Image.Image) -> Image.Image:
    """A transform that leaves the cropping to :class:`BoxedImages`."""
    return image


class BoxedImages(Seeded):
    """As :class:`Seeded`, with crops that know their image's box.

    Args:
        dataset: gives ``(image, label)``, untransformed.
        seed: of the run.
        crops: of an image and its box.
        boxes: ``(N, 4)``, shared with the process that updates them.
        first_use: the first epoch that uses them.
    """

    def __init__(
        self, dataset: Dataset[Any], seed: int, crops: Callable[..., list[Tensor]], boxes: Tensor, first_use: int
    ):
        super().__init__(dataset, seed)
        self.crops, self.boxes, self.first_use = crops, boxes, first_use

    def _drawn(self, epoch: int, index: int) -> tuple[list[Tensor], int]:
        image, label = self.dataset[index]
        box = self.boxes[index].tolist() if epoch >= self.first_use else None
        return self.crops(image, box), label
