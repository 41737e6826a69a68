"""Decisions for many images at once: torchvision's law, from seed, epoch and image alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp, kstest
from torchvision import transforms as T

from solo_bam.data.sampling import seeded
from solo_bam.data.transforms.batch_draws import draw_batch, draw_many, numbers, uniforms
from solo_bam.data.transforms.draws import draw, width
from solo_bam.solo_learn import GaussianBlur

COUNT = 3000


def test_numbers_are_uniform_and_unrelated() -> None:
    u = uniforms(3, 1, range(COUNT), 4)
    assert u.shape == (COUNT, 4)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert kstest(column, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.08  # of neighbouring images
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.08
    for other in (uniforms(4, 1, range(COUNT), 4), uniforms(3, 2, range(COUNT), 4)):
        assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 0.04


def test_an_images_numbers_do_not_depend_on_its_batch() -> None:
    alone, together = uniforms(0, 5, [7], 6), uniforms(0, 5, [2, 7, 100_000], 6)
    assert np.array_equal(alone[0], together[1])
    assert not np.isin(together[0], together[1:]).any()


CROP = T.RandomResizedCrop(32)
TURN = T.RandomAffine(20, translate=(0.1, 0.2), scale=(0.8, 1.2), shear=10)
LAWS: dict[str, tuple[Any, tuple[int, int]]] = {
    "crop": (CROP, (32, 32)),
    "small crop": (T.RandomResizedCrop(16, scale=(0.05, 0.25)), (96, 96)),
    "crop of a wide image": (CROP, (90, 120)),
    "crop that hardly fits": (T.RandomResizedCrop(8, scale=(0.9, 1.0)), (24, 34)),
    "crop that never fits a wide image": (T.RandomResizedCrop(8, scale=(0.9, 1.0)), (10, 90)),
    "crop that never fits a high image": (T.RandomResizedCrop(8, scale=(0.9, 1.0)), (90, 11)),
    "affine": (T.RandomApply([TURN], 0.7), (32, 32)),
    "affine without zoom and shear": (T.RandomApply([T.RandomAffine(5, (0.0, 0.0), (1, 1), 0.0)], 0.9), (32, 32)),
    "jitter": (T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8), (32, 32)),
    "jitter of two": (T.RandomApply([T.ColorJitter(0.0, 0.6, 0.0, 0.3)], 0.5), (32, 32)),
    "grey": (T.RandomGrayscale(0.2), (32, 32)),
    "blur": (T.RandomApply([GaussianBlur()], 0.5), (32, 32)),
    "solarisation": (T.RandomSolarize(128, 0.2), (32, 32)),
    "equalisation": (T.RandomEqualize(0.3), (32, 32)),
    "flip": (T.RandomHorizontalFlip(0.5), (32, 32)),
    "nothing": (T.ToTensor(), (32, 32)),
}


def both(name: str) -> tuple[np.ndarray, np.ndarray]:
    """torchvision's decisions and ours, a row per image."""
    transform, (height, wide) = LAWS[name]
    image = Image.new("RGB", (wide, height))
    with seeded(1):
        theirs = np.array([draw(transform, image, 32) for _ in range(COUNT)])
    ours = draw_many(transform, uniforms(0, 0, range(COUNT), numbers(transform)), (height, wide), 32)
    return theirs.reshape(COUNT, width(transform)), ours


@pytest.mark.parametrize("name", LAWS)
def test_the_law_is_torchvisions(name: str) -> None:
    theirs, ours = both(name)
    assert ours.shape == theirs.shape
    for column, (x, y) in enumerate(zip(theirs.T, ours.T)):
        assert ks_2samp(x, y).pvalue > 1e-4, column
    for x, y in ((theirs, ours), (ours, theirs)):  # together, too: products of neighbouring columns
        pairs = [(x[:, i] * x[:, i + 1], y[:, i] * y[:, i + 1]) for i in range(x.shape[1] - 1)]
        assert all(ks_2samp(a, b).pvalue > 1e-4 for a, b in pairs)


def test_factors_belong_to_their_operations() -> None:
    """The hue's are never a contrast's."""
    for drawn in both("jitter of two"):
        operations, factors = drawn[:, :4], drawn[:, 4:]
        assert set(np.unique(operations)) == {-1, 1, 3}
        assert (operations[:, 2:] == -1).all()
        assert np.abs(factors[operations == 3]).max() <= 0.3
        assert factors[operations == 1].min() >= 0.4
        assert (factors[operations == -1] == 0).all()
        first = operations[operations[:, 0] >= 0, 0]
        assert (first == 1).mean() == pytest.approx(0.5, abs=0.06)


def test_crops_are_unlike_each_other_and_in_the_image() -> None:
    pipelines = [(T.Compose([CROP, T.RandomHorizontalFlip(0.5)]), 2), (T.Compose([T.RandomResizedCrop(16)]), 1)]
    first, second, small = draw_batch(pipelines, (30, 40), 0, 0, range(COUNT))
    assert [d.shape for d in first] == [(COUNT, 4), (COUNT, 1)]
    assert len(small) == 1
    for boxes in (first[0], second[0], small[0]):
        assert (boxes[:, :2] >= 0).all()
        ends = boxes[:, :2] + boxes[:, 2:]
        assert (ends <= [30, 40]).all()
        narrower = boxes[:, 2:] < [30, 40]
        assert [ends[narrower[:, i], i].max() for i in (0, 1)] == [30, 40]  # the last place is one of them
    assert abs(np.corrcoef(first[0][:, 2], second[0][:, 2])[0, 1]) < 0.08
    assert abs(np.corrcoef(first[1][:, 0], second[1][:, 0])[0, 1]) < 0.08


def test_torchs_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    draw_batch([(T.Compose([CROP]), 1)], (32, 32), 0, 0, range(4))
    assert torch.equal(torch.get_rng_state(), before)
