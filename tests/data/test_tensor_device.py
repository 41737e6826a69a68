"""What crops in memory ask of the device that makes them: few operations, one copy, no waiting, one graph."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from solo_bam.config import load_recipe
from solo_bam.data.loaders.tensor import TensorLoader
from solo_bam.data.transforms.augmentations import Crops
from solo_bam.data.transforms.batch_draws import draw_batch, one_by_one
from solo_bam.data.transforms.decisions import Decisions, pack
from solo_bam.data.transforms.tensor_operations import crop
from tests.test_fake_gpu import Copies

GOAL = 120  # operations for a batch of two crops
SIDE = 32
ALL = (
    "+augmentations=[{crop_size:24,num_crops:2,rrc:{crop_min_scale:0.25},color_jitter:{prob:0.8,brightness:0.4,"
    "contrast:0.4,saturation:0.2,hue:0.1},grayscale:{prob:0.2},gaussian_blur:{prob:0.5},solarization:{prob:0.2},"
    "equalization:{prob:0.2},horizontal_flip:{prob:0.5},affine:{prob:0.5,degrees:30,translate:0.2}}]"
)
SIZES = (
    "+augmentations=[{crop_size:24,num_crops:1,horizontal_flip:{prob:0.5}},{crop_size:16,num_crops:2,"
    "gaussian_blur:{prob:0.5}},{crop_size:24,num_crops:1,grayscale:{prob:0.5},solarization:{prob:0.5}}]"
)

fakes_a_gpu = pytest.mark.skipif(torch.__version__.startswith("2.7."), reason="torch 2.7 fakes no GPU without a driver")
NO_VIEWS = ("aten::_unsafe_view",)  # in name only: nothing is computed


class Operations(TorchDispatchMode):
    """Counts all that is not a view."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.name() not in NO_VIEWS:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def loader_of(recipe: str, *overrides: str, count: int = 8, device: str = "cpu") -> TensorLoader:
    """A recipe's crops of images of noise."""
    asked = load_recipe(recipe, list(overrides))
    pixels = torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images: Any = SimpleNamespace(pixels=pixels.to(device), labels=torch.zeros(count, dtype=torch.long))
    return TensorLoader(images, Crops(asked.data.dataset, asked.augmentations).pipelines, range(count), 0, count)


def packed(loader: TensorLoader, indexes: Sequence[int], *chosen: int) -> tuple[Tensor, list[int]]:
    """Decisions of some of the loader's crops."""
    pipelines = one_by_one(loader.pipelines)
    drawn = draw_batch(loader.pipelines, (SIDE, SIDE), 0, 0, indexes)
    chosen = chosen or tuple(range(len(pipelines)))
    rows, widths = pack([pipelines[i] for i in chosen], [drawn[i] for i in chosen], indexes, (SIDE, SIDE))
    return torch.from_numpy(rows), widths


# ------------------------------------------------------------------------------------------------ operations


@pytest.mark.parametrize("recipe", ["cifar/simclr", "cifar/byol", "cifar/bam", "cifar-small/dino", "speedrun/simclr"])
def test_a_batch_takes_few_operations_whatever_its_size(recipe: str) -> None:
    found = []
    for count in (2, 33, 128):
        loader = loader_of(recipe, count=count)
        for epoch in range(2):
            with Operations() as operations:
                crops = loader.crops(epoch, range(count))
            found.append(operations.found)
    assert len(crops) == 2
    assert all(names == found[0] for names in found)
    assert 0 < len(found[0]) <= GOAL


@fakes_a_gpu
def test_a_gpu_makes_large_batches_at_once_and_a_cpu_in_pieces() -> None:
    found = {}
    for count in (64, 1024):
        with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "pin_memory", lambda self: self)
            loader = loader_of("cifar/simclr", count=count, device="cuda")
            with Operations() as operations:
                loader.crops(0, range(count))
            found[count] = operations.found
    assert found[64] == found[1024]
    loader = loader_of("cifar/simclr", count=400)
    whole = crop(loader.images.pixels, *packed(loader, range(400)), 32).chunk(2)
    torch.testing.assert_close(loader.crops(0, range(400)), list(whole), rtol=0, atol=0)


def test_even_with_all_that_a_recipe_can_ask_for() -> None:
    loader = loader_of("digits/bam", ALL)
    with Operations() as operations:
        loader.crops(0, range(8))
    assert len(operations.found) <= GOAL


# ------------------------------------------------------------------------------------------------ the device


@fakes_a_gpu
@pytest.mark.parametrize("overrides", [(), (ALL,), (SIZES,)], ids=["asymmetric", "all", "two sizes"])
def test_decisions_reach_the_device_in_one_copy(overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing comes back: a reading, or a shape that depends on values, fails by itself without data."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    copies = Copies()
    with FakeTensorMode(), copies:
        loader = loader_of("cifar/byol", *overrides, device="meta")
        loader.images.pixels = torch.empty(8, 3, SIDE, SIDE, dtype=torch.uint8, device="cuda")
        copies.found.clear()
        crops = loader.crops(0, range(8))
    assert {made.device.type for made in crops} == {"cuda"}
    assert len(copies.found) == 1, copies.found


@pytest.mark.parametrize(("recipe", "overrides"), [("cifar/simclr", ()), ("digits/bam", ()), ("digits/bam", (ALL,))])
def test_crops_are_one_graph(recipe: str, overrides: tuple[str, ...]) -> None:
    loader = loader_of(recipe, *overrides)
    rows, widths = packed(loader, range(8))
    (size,) = loader.alike
    compiled = torch.compile(crop, backend="aot_eager", fullgraph=True)
    expected = crop(loader.images.pixels, rows, widths, size)
    assert torch.equal(compiled(loader.images.pixels, rows, widths, size), expected)


# ------------------------------------------------------------------------------------------------ the packing


def test_crops_made_together_are_those_made_alone() -> None:
    """Though the others' recipe asks for more."""
    loader = loader_of("digits/bam", SIZES)
    assert loader.alike == {24: [0, 3], 16: [1, 2]}
    crops = loader.crops(0, range(8))
    for i, made in enumerate(crops):
        rows, widths = packed(loader, range(8), i)
        torch.testing.assert_close(crop(loader.images.pixels, rows, widths, made.shape[-1]), made)
    together = [widths for _, widths in (packed(loader, range(8), 0, 3), packed(loader, range(8), 0))]
    assert len(together[0]) == len(together[1]) == len(Decisions._fields)
    assert sum(together[0]) > sum(together[1])


def test_any_number_of_images_has_a_place() -> None:
    """Places beyond those that a float32 holds."""
    loader = loader_of("cifar/simclr")
    rows, widths = packed(loader, [2**24 + 1, 2**31 - 1, 3])
    place = Decisions(*rows.split(widths, dim=1)).place.view(torch.int32).flatten()
    assert place.tolist() == 2 * [2**24 + 1, 2**31 - 1, 3]


def test_the_order_of_indexes_is_that_of_the_crops() -> None:
    loader = loader_of("cifar/simclr")
    whole, turned = loader.crops(0, range(8)), loader.crops(0, range(8)[::-1])
    for a, b in zip(whole, turned):
        torch.testing.assert_close(a, b.flip(0))
    assert not np.allclose(whole[0], whole[1], atol=0.1)
