"""ContrastiveCrop: boxes from heat maps, crops in boxes, and how boxes reach the loaders."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from solo_bam.config.resolve import resolve
from solo_bam.core.errors import UserError
from solo_bam.data import PretrainData, find_source
from solo_bam.data.sampling import seeded
from solo_bam.data.transforms.contrastive_crop import BoxSchedule, ContrastiveCrop, boxes_from_heat, enlarge
from tests.recipes import tiny

ON = ["data.contrastive_crop.enabled=True", "data.contrastive_crop.interval=1", "augmentations.0.rrc.enabled=True"]


def _heat(*hot: tuple[int, int], side: int = 8) -> torch.Tensor:
    heat = torch.full((side, side), -3.0)
    for row, column in hot:
        heat[row, column] = 5.0
    return heat


@pytest.mark.parametrize(
    ("heat", "box"),
    [
        (_heat((2, 3), (5, 4)), (2 / 8, 3 / 8, 5 / 8, 4 / 8)),
        (_heat((0, 0), (7, 7)), (0, 0, 7 / 8, 7 / 8)),
        (_heat((6, 1)), (6 / 8, 1 / 8, 6 / 8, 1 / 8)),
        (torch.full((8, 8), 2.5), (0, 0, 1, 1)),
    ],
)
def test_box_of_a_known_heat_map(heat: torch.Tensor, box: tuple[float, ...]) -> None:
    others = torch.rand(2, 8, 8)
    boxes = boxes_from_heat(torch.stack([others[0], heat, others[1]]), 8, 8, threshold=0.1)
    assert boxes[1].tolist() == pytest.approx(box)


def test_the_threshold_cuts_the_scaled_heat() -> None:
    heat = torch.zeros(1, 4, 4)
    heat[0, 1, 1], heat[0, 2, 2] = 100.0, 30.0
    assert boxes_from_heat(heat, 4, 4, threshold=0.2).tolist() == [[0.25, 0.25, 0.5, 0.5]]
    assert boxes_from_heat(heat, 4, 4, threshold=0.4).tolist() == [[0.25, 0.25, 0.25, 0.25]]


def test_heat_is_enlarged_to_the_image() -> None:
    """A hot quarter of a 2 x 2 map fades out linearly to the neighbouring pixels' centres."""
    heat = torch.tensor([[[7.0, 3.0], [3.0, 3.0]]])
    large = enlarge(heat, 4, 4)
    along = torch.tensor([1.0, 0.75, 0.25, 0.0])
    torch.testing.assert_close(large[0], along[:, None] * along, atol=1e-4, rtol=0)


def _places(crop: ContrastiveCrop, image: Any, box: Any, monkeypatch: pytest.MonkeyPatch, draws: int) -> np.ndarray:
    """Top, left, height and width of random crops."""
    places = []
    with monkeypatch.context() as patch, seeded(0):
        patch.setattr("torchvision.transforms.functional.resized_crop", lambda image, *place: places.append(place[:4]))
        for _ in range(draws):
            crop(image, box)
    return np.array(places)


@pytest.mark.parametrize("alpha", [0.2, 0.6, 1.0, 5.0])
def test_centres_follow_the_beta_law_in_the_box(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    crop = ContrastiveCrop(8, alpha, scale=(0.01, 0.01), ratio=(1.0, 1.0))
    top, left, height, width = _places(crop, Image.new("RGB", (1000, 800)), (0.3, 0.5, 0.7, 0.9), monkeypatch, 3000).T
    variance = 1 / (4 * (2 * alpha + 1))
    for centre, (low, high) in (((top + height / 2) / 800, (0.3, 0.7)), ((left + width / 2) / 1000, (0.5, 0.9))):
        place = (centre - low) / (high - low)
        assert -0.01 < place.min() < place.max() < 1.01
        assert abs(place.mean() - 0.5) < 4 * np.sqrt(variance / 3000)
        assert place.var() == pytest.approx(variance, rel=0.1)


def test_small_alpha_goes_to_the_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_border(alpha: float) -> float:
        crop = ContrastiveCrop(8, alpha, scale=(0.01, 0.01), ratio=(1.0, 1.0))
        top = _places(crop, Image.new("RGB", (1000, 1000)), (0.2, 0.2, 0.8, 0.8), monkeypatch, 1000)[:, 0]
        place = (top + 50 - 200) / 600
        return float(((place < 0.1) | (place > 0.9)).mean())

    assert at_border(0.3) > at_border(0.6) > at_border(1.0) == pytest.approx(0.2, abs=0.04)


def test_crops_stay_in_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(0)
    for _ in range(60):
        width, height = generator.randint(8, 300), generator.randint(8, 300)
        (h0, h1), (w0, w1) = (sorted((generator.random(), generator.random())) for _ in range(2))
        crop = ContrastiveCrop(8, 0.6, scale=(0.05, 1.0))
        places = _places(crop, Image.new("RGB", (width, height)), (h0, w0, h1, w1), monkeypatch, 20)
        assert places.min() >= 0
        assert (places[:, 0] + places[:, 2]).max() <= height
        assert (places[:, 1] + places[:, 3]).max() <= width


def test_without_a_box_it_is_torchvisions_crop() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    views = []
    for crop in (ContrastiveCrop(16, 0.6, scale=(0.2, 0.5)), T.RandomResizedCrop(16, scale=(0.2, 0.5))):
        with seeded(3):
            views.append(np.asarray(crop(image)))
    assert np.array_equal(*views)


@pytest.mark.parametrize(("interval", "warmup", "epochs"), [(20, 40, 400), (20, 10, 100), (20, 30, 100), (1, 0, 5), (3, 0, 4), (2, 2.5, 12)])  # fmt: skip
def test_schedule_is_the_published_one(interval: int, warmup: float, epochs: int) -> None:
    schedule = BoxSchedule(interval, warmup)
    used = [epoch for epoch in range(epochs) if epoch >= max(interval, warmup) + 1]
    due = [epoch for epoch in range(epochs) if epoch >= warmup and epoch != epochs - 1 and epoch % interval == 0]
    assert [epoch for epoch in range(epochs) if epoch >= schedule.first_use] == used
    # Boxes of epoch 0 are replaced before they are used.
    assert [epoch for epoch in range(epochs) if schedule.due(epoch, epochs)] == [epoch for epoch in due if epoch]
    assert not used or due[0] or len(due) > 1


def test_only_a_warm_up_counts(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "digits/bam", "scheduler.warmup_epochs=7", "max_epochs=9")
    assert BoxSchedule.of(recipe) == BoxSchedule(20, 7)
    assert BoxSchedule.of(tiny(tmp_path, "digits/bam", "scheduler.name=cosine")) == BoxSchedule(20, 0)


def _batches(data: PretrainData, epoch: int) -> list[Any]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def _same(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(x[0], y[0]) and all(map(torch.equal, x[1], y[1])) for x, y in zip(a, b, strict=True))


def _data(tmp_path: Path, *overrides: str) -> PretrainData:
    recipe = tiny(tmp_path, "digits/bam", *ON, *overrides)
    return PretrainData(recipe, find_source(recipe.data))


def test_boxes_are_used_from_their_epoch_on(tmp_path: Path) -> None:
    data, plain = _data(tmp_path), _data(tmp_path, "data.contrastive_crop.enabled=False")
    assert data.boxes is not None
    assert data.boxes.shape == (71, 4)
    assert plain.boxes is None
    assert _same(_batches(data, 1), _batches(plain, 1))
    assert not _same(_batches(data, 2), _batches(plain, 2))
    assert _same(_batches(data, 2), _batches(data, 2))


def test_an_image_follows_its_own_box(tmp_path: Path) -> None:
    data = _data(tmp_path)
    before = {int(i): crops for i, crops, _ in (data.train_set[(2, index)] for index in range(20))}
    data.boxes[7] = torch.tensor([0.0, 0.0, 0.0, 0.0])  # type: ignore[index]
    changed = [i for i in before if not all(map(torch.equal, before[i], data.train_set[(2, i)][1]))]
    assert changed == [7]


def test_small_crops_follow_the_box_too(tmp_path: Path) -> None:
    crop = "{crop_size: %d, num_crops: 1, rrc: {enabled: True, crop_max_scale: 0.3}}"
    data = _data(tmp_path, f"augmentations=[{crop % 16},{crop % 8}]")
    before = data.train_set[(2, 0)][1]
    data.boxes[0] = torch.tensor([0.0, 0.0, 0.0, 0.0])  # type: ignore[index]
    assert not any(map(torch.equal, before, data.train_set[(2, 0)][1]))


def test_new_boxes_reach_workers_that_stay(tmp_path: Path) -> None:
    data, expected = _data(tmp_path, "data.num_workers=1"), _data(tmp_path)
    loader = data.train_dataloader()
    for epoch in (1, 2, 3):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert _same(list(loader), _batches(expected, epoch))
        corner = torch.tensor([0.0, 0.0, 0.1 * epoch, 0.1])
        data.boxes[:], expected.boxes[:] = corner, corner  # type: ignore[index]


def test_heat_maps_are_of_the_same_images(tmp_path: Path) -> None:
    """The n-th resized image is the one whose crops have index n, also with a fraction of the images."""
    whole = "augmentations=[{crop_size: 16, num_crops: 2, rrc: {enabled: False}, mean: [0, 0, 0], std: [1, 1, 1]}]"
    recipe = tiny(tmp_path, "digits/bam", whole)
    data = PretrainData(recipe, find_source(recipe.data))
    images: Any = data.resized_images()
    assert len(images) == len(data.train_set)
    for index in (0, 30, 70):
        _, crops, label = data.train_set[(0, index)]
        assert images[index][1] == label
        assert (images[index][0] - crops[0]).abs().mean() < 0.05  # bilinear, bicubic


def test_what_cannot_be_cropped_is_refused(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "digits/bam", *ON, "augmentations.0.rrc.enabled=False")
    with pytest.raises(UserError, match=r"data.contrastive_crop.enabled: got True, no pipeline crops; set"):
        resolve(recipe, 10, True, 1)
    recipe = tiny(tmp_path, "digits/bam", *ON)
    recipe.data = recipe.data.model_copy(update={"format": "dali"})
    with pytest.raises(UserError, match=r"data.contrastive_crop.enabled: got True, data.format=dali crops without"):
        resolve(recipe, 10, True, 1)
