"""Corruptions: deterministic, stronger with severity, and what their formulas say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from solo_bam.data.transforms.corruptions import CORRUPTIONS, Corrupt


def picture(side: int = 32) -> Image.Image:
    """Smooth shapes, with edges and colors."""
    generator = np.random.default_rng(0)
    field = ndimage.gaussian_filter(generator.random((side, side, 3)), (2, 2, 0))
    field = (field - field.min()) / np.ptp(field)
    field[side // 4 : side // 2, side // 4 : side // 2] = (0.9, 0.2, 0.1)
    return Image.fromarray(np.uint8(255 * field))


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_changes_the_image_the_same_way_every_time(name: str, side: int) -> None:
    image = picture(side)
    seen = [Corrupt(name, severity)(image) for severity in range(1, 6)]
    assert all(one.size == image.size and one.mode == "RGB" for one in seen)
    assert [one.tobytes() for one in seen] == [Corrupt(name, severity)(image).tobytes() for severity in range(1, 6)]
    far = [distance(one, image) for one in seen]
    if name != "elastic":  # whose first severity moves as far as the others, without bending
        assert max(far[3:]) > far[0]
    assert 1 < max(far) < 128


def _pixels(name: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
    image = picture()
    return np.asarray(image, float) / 255, np.asarray(Corrupt(name, severity)(image), float) / 255


def test_noise_has_the_published_deviation() -> None:
    flat = Image.new("RGB", (64, 64), (128, 128, 128))
    found = [np.asarray(Corrupt("gaussian noise", s)(flat), float).std() / 255 for s in (1, 5)]
    assert found == pytest.approx([0.04, 0.10], rel=0.05)
    shot = np.asarray(Corrupt("shot noise", 5)(flat), float).std() / 255
    assert shot == pytest.approx((128 / 255 / 50) ** 0.5, rel=0.05)
    hit = np.asarray(Corrupt("impulse noise", 5)(flat))
    assert (hit != 128).mean() == pytest.approx(0.07, rel=0.15)
    assert {*np.unique(hit)} == {0, 128, 255}


def test_contrast_and_brightness_are_their_formulas() -> None:
    before, after = _pixels("contrast", 5)
    mean = before.mean((0, 1))
    np.testing.assert_allclose(after, mean + 0.15 * (before - mean), atol=1 / 255)
    before, after = _pixels("brightness", 3)
    np.testing.assert_allclose(after.max(-1), np.minimum(before.max(-1) + 0.15, 1), atol=1 / 255)


def test_blurs_keep_a_flat_image_and_the_mean() -> None:
    flat = Image.new("RGB", (32, 32), (10, 200, 90))
    for name in ("defocus blur", "glass blur", "motion blur", "zoom blur", "elastic", "pixelate"):
        assert distance(Corrupt(name, 5)(flat), flat) == 0, name
        before, after = _pixels(name, 3)
        assert after.mean() == pytest.approx(before.mean(), abs=0.03), name


def test_jpeg_is_pillows() -> None:
    file = io.BytesIO()
    picture().save(file, "JPEG", quality=40)
    assert Corrupt("JPEG", 5)(picture()).tobytes() == Image.open(file).tobytes()
