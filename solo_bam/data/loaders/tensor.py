"""Training images as one tensor on the device that trains, cropped and augmented there in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset
from torchvision import transforms as T

from solo_bam.core import hardware
from solo_bam.core.errors import UserError
from solo_bam.core.hardware import GIB
from solo_bam.data.datasets.images import Images
from solo_bam.data.sampling import ignore_termination
from solo_bam.data.transforms.batch_draws import draw_batch, one_by_one
from solo_bam.data.transforms.decisions import pack
from solo_bam.data.transforms.draws import crop_size, kind
from solo_bam.data.transforms.tensor_operations import crop

Pipelines = Sequence[tuple[T.Compose, int]]
_READ = 256  # images that a process decodes at once
_CACHED = 2**20  # numbers of images that a CPU crops at once: 4 MiB
_KEPT = 32_000_000  # bytes, close to the largest block that glibc adapts to: pages new in each batch cost half its time


def check_tensor(pipelines: Pipelines) -> None:
    """Whether the tensor loader can do what the recipe asks for.

    Raises:
        UserError: an operation is none that it has.
    """
    for pipeline, _ in pipelines:
        for transform in pipeline.transforms:
            kind(transform, "tensor")


class TensorImages(Dataset[tuple[Tensor, Tensor]]):
    """All images of a dataset, decoded.

    Args:
        images: of one size; their transform is not used.
        workers: processes that decode.
        accelerator: that trains, as :func:`solo_bam.core.hardware.find_devices` names it.

    Attributes:
        dataset: what was decoded.
        pixels: ``(N, 3, height, width)``, uint8.
        labels: ``(N,)``, int64.

    Raises:
        UserError: images of several sizes, or more than there is memory for.
    """

    def __init__(self, images: Images, workers: int = 0, accelerator: str = "cpu"):
        self.dataset = Images(images.split, np.array)
        first, _ = self.dataset[0]
        check_memory(len(images), first.shape, accelerator)
        self.pixels = torch.empty(len(images), 3, *first.shape[:2], dtype=torch.uint8)
        self.labels = torch.empty(len(images), dtype=torch.int64)
        reader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_size=_READ,
            num_workers=min(workers, len(images) // _READ),
            collate_fn=list,
            worker_init_fn=ignore_termination,
        )
        for position, (image, label) in enumerate(item for batch in reader for item in batch):
            if image.shape != first.shape:
                raise self._error(position, image.shape, first.shape)
            self.pixels[position] = torch.from_numpy(image).permute(2, 0, 1)
            self.labels[position] = label

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pixels[index], self.labels[index]

    def _error(self, position: int, found: Sequence[int], first: Sequence[int]) -> UserError:
        name = self.dataset.split.reader.name(position)
        sizes = f"{name} is {found[1]} x {found[0]}, the first {first[1]} x {first[0]}"
        problem = f"got 'tensor', which takes images of one size: {sizes}"
        return UserError("data.format", problem, "resize them, or set data.format=image_folder or dali")


def check_memory(count: int, shape: Sequence[int], accelerator: str) -> None:
    """Whether images of height, width and channels fit in memory, and in the smallest GPU's.

    Raises:
        UserError: they do not.
    """
    height, width, channels = shape
    needed = count * height * width * channels
    there = {"free": hardware.free_memory()}
    if accelerator == "cuda":
        gpus = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        there["in a GPU"] = min(gpus)
    for where, size in there.items():
        if size is not None and needed > size:
            takes = f"{count:,} images of {width} x {height} take {needed / GIB:,.1f} GiB"
            problem = f"got 'tensor', {takes}, there are {size / GIB:.1f} {where}"
            raise UserError("data.format", problem, "set data.format=image_folder or dali")


class TensorLoader:
    """Batches ``[indexes, [crops], labels]`` as the torchvision loader gives them, the crops on the images' device.

    The random decisions follow from seed, epoch and image. They obey torchvision's law, and are not its own.

    Args:
        images: decoded; their pixels are on the device that augments.
        pipelines: torchvision pipelines and how many crops of each.
        sampler: gives ``(epoch, index)``.
        seed: of the run.
        batch_size: images; an incomplete last batch is dropped.
    """

    def __init__(self, images: TensorImages, pipelines: Pipelines, sampler: Any, seed: int, batch_size: int):
        self.images, self.pipelines = images, pipelines
        self.dataset = images  # some methods ask for its length
        self.sampler, self.seed, self.batch_size = sampler, seed, batch_size
        self.alike: dict[int, list[int]] = {}  # places of the crops of a size, which are made together
        for i, pipeline in enumerate(one_by_one(pipelines)):
            self.alike.setdefault(crop_size(pipeline), []).append(i)
        if images.pixels.device.type == "cpu":
            torch.empty(_KEPT, dtype=torch.uint8)  # freed at once: allocators that adapt keep as much from then on

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[list[Any]]:
        for keys in BatchSampler(self.sampler, self.batch_size, drop_last=True):
            epochs, indexes = zip(*keys)
            places = torch.tensor(indexes)
            yield [places, self.crops(epochs[0], indexes), self.images.labels[places]]

    @torch.no_grad()
    def crops(self, epoch: int, indexes: Sequence[int]) -> list[Tensor]:
        """All crops of some images, ``(images, 3, size, size)`` each, float32."""
        pixels, pipelines = self.images.pixels, one_by_one(self.pipelines)
        height, width = pixels.shape[2:]
        drawn = draw_batch(self.pipelines, (height, width), self.seed, epoch, indexes)
        packed = [
            pack([pipelines[i] for i in places], [drawn[i] for i in places], indexes, (height, width))
            for places in self.alike.values()
        ]
        numbers = sent(np.concatenate([rows.ravel() for rows, _ in packed]), pixels.device)
        made: dict[int, Tensor] = {}
        parts = torch.split(numbers, [rows.size for rows, _ in packed])
        for (size, places), (rows, widths), part in zip(self.alike.items(), packed, parts):
            crops = torch.empty(len(rows), 3, size, size, device=pixels.device)
            for piece, out in zip(self._pieces(part.view(rows.shape)), self._pieces(crops)):
                crop(pixels, piece, widths, size, out)
            made |= zip(places, crops.chunk(len(places)))
        return [made[i] for i in range(len(pipelines))]

    def _pieces(self, rows: Tensor) -> tuple[Tensor, ...]:
        """On a CPU as many rows at a time as its caches hold; a GPU would wait for the operations."""
        pixels = self.images.pixels
        return torch.split(rows, max(1, _CACHED // pixels[0].numel())) if pixels.device.type == "cpu" else (rows,)


def sent(values: np.ndarray, device: torch.device) -> Tensor:
    """An array on a device, without waiting for it."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # else modelled
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
