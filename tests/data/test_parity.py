"""``solo-bam doctor --loaders``: it agrees with the loaders as they are, and finds each of them broken."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import transforms as T

from solo_bam.cli import main
from solo_bam.config.schema import Recipe
from solo_bam.data.transforms.augmentations import Crops
from solo_bam.solo_learn import GaussianBlur
from tests.data.pictures import photo
from tests.recipes import tiny

pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 'solo-bam[dali]'")

from solo_bam.data.loaders import dali_graph, parity
from solo_bam.data.transforms import draws

LARGE = (
    "{crop_size:32,num_crops:1,rrc:{crop_min_scale:0.25},color_jitter:{prob:0.8,brightness:0.4,contrast:0.4,"
    "saturation:0.2,hue:0.1},grayscale:{prob:0.2},gaussian_blur:{prob:0.5},solarization:{prob:0.2},"
    "equalization:{prob:0.2},horizontal_flip:{prob:0.5}}"
)
SMALL = "{crop_size:16,num_crops:2,rrc:{crop_min_scale:0.05,crop_max_scale:0.25}}"
CROP = "{crop_size:32,num_crops:2,rrc:{crop_min_scale:0.25}}"
TURNED = "{crop_size:32,num_crops:2,rrc:{enabled:False},affine:{prob:0.5,degrees:30,translate:0.2}}"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(4):
        photo(folder / f"{i}.jpg", size=(120 + 10 * i, 100), quality=90)
    return folder


def recipe_of(images: Path, *pipelines: str) -> Recipe:
    overrides = ["data.dataset=custom", f"data.train_path={images}", "data.no_labels=True", "dali.device=cpu"]
    overrides = [*overrides, f"+augmentations=[{','.join(pipelines)}]"]
    return tiny(images / "runs", "digits/bam", *overrides)


def differing(rows: list[parity.Row]) -> list[str]:
    return [row.name for row in rows if not row.ok]


def test_the_loaders_agree(images: Path) -> None:
    rows = parity.compare(recipe_of(images, LARGE, SMALL, TURNED))
    assert differing(rows) == []
    names = {row.name for row in rows}
    assert len(names) == len(rows)
    for expected in (
        *("0 mean of red", "0 deviation of blue", "0 crop: area, mean", "0 color_jitter: probability"),
        *(
            "0 horizontal_flip: probability",
            "1 crop: log aspect ratio, mean deviation",
            "2 affine: mean change, of 255",
        ),
    ):
        assert f"augmentations.{expected}" in names
    assert not [name for name in names if name.startswith("augmentations.1 grayscale")]


def test_the_probe_reads_crops_right(images: Path) -> None:
    """torchvision's own boxes are the expected values."""
    areas = torch.stack(
        [
            torch.tensor(T.RandomResizedCrop.get_params(torch.empty(3, 192, 256), (0.25, 1.0), (3 / 4, 4 / 3)))
            for _ in range(2000)
        ]
    )
    rows = {row.name: row for row in parity.compare(recipe_of(images, CROP)) if "crop: " in row.name}
    expected = (areas[:, 2] * areas[:, 3] / (192 * 256)).mean()
    assert rows["augmentations.0 crop: area, mean"].torchvision == pytest.approx(float(expected), abs=0.06)
    assert abs(rows["augmentations.0 crop: centre across, mean"].torchvision - 0.5) < 0.04


# What is broken: a transform's setting as the draws see it, or a part of the graph.


def setting(kind: type, **values: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """The decisions of one kind of transform are taken with another setting."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        ordinary = draws.draw

        def changed(transform: Any, image: Any, size: int) -> list[float]:
            if draws.kind(transform) is not kind:
                return ordinary(transform, image, size)
            before = {name: getattr(transform, name) for name in values}
            transform.__dict__.update(values)
            try:
                return ordinary(transform, image, size)
            finally:
                transform.__dict__.update(before)

        patch.setattr(draws, "draw", changed)

    return apply


def graph(name: str, broken: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A function of the graph is another one."""
    return lambda patch: patch.setattr(dali_graph, name, broken)


def unrelated(patch: pytest.MonkeyPatch) -> None:
    """The loaders follow the same law with other random numbers."""
    from solo_bam.data.loaders import dali

    ordinary = dali.seeded
    patch.setattr(dali, "seeded", lambda *key: ordinary(99, *key))


def untouched(x: Any, d: Any) -> Any:
    """An operation that does nothing."""
    return x


def only(operation: str) -> str:
    """A pipeline of one operation."""
    return f"{{crop_size:32,num_crops:1,rrc:{{enabled:False}},{operation}}}"


FLIP, JITTER = only("horizontal_flip:{prob:0.5}"), only("color_jitter:{prob:0.8,brightness:0.4,saturation:0.4,hue:0.2}")
GREY, BLUR = only("grayscale:{prob:0.2}"), only("gaussian_blur:{prob:0.5}")
SOLAR, EQUAL = only("solarization:{prob:0.3}"), only("equalization:{prob:0.5}")

BREAKAGES: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = {
    "flips too rarely": (FLIP, setting(T.RandomHorizontalFlip, p=0.3), r"horizontal_flip: probability"),
    "never flips": (FLIP, setting(T.RandomHorizontalFlip, p=0.0), r"horizontal_flip: probability"),
    "greys too often": (GREY, setting(T.RandomGrayscale, p=0.4), r"grayscale: probability"),
    "solarises too rarely": (SOLAR, setting(T.RandomSolarize, p=0.1), r"solarization: probability"),
    "equalises too often": (EQUAL, setting(T.RandomEqualize, p=0.7), r"equalization: probability"),
    "jitters always": (JITTER, setting(T.ColorJitter, p=1.0), r"color_jitter: probability"),
    "blurs never": (BLUR, setting(GaussianBlur, p=0.0), r"gaussian_blur: probability"),
    "crops too small": (SMALL, setting(T.RandomResizedCrop, scale=(0.01, 0.25)), r"crop: area, mean"),
    "crops too large": (SMALL, setting(T.RandomResizedCrop, scale=(0.1, 0.25)), r"crop: area, mean"),
    "crops squares": (SMALL, setting(T.RandomResizedCrop, ratio=(1.0, 1.0001)), r"crop: log aspect ratio"),
    "does not jitter": (JITTER, graph("jitter", untouched), r"color_jitter: probability"),
    "does not turn hues": (JITTER, graph("turn_hue", untouched), r"color_jitter: mean change"),
    "solarises upside down": (
        LARGE,
        graph("_INVERTED", [255 - v if v < 128 else v for v in range(256)]),
        r"solarization: mean",
    ),
    "equalises as DALI does": (EQUAL, graph("equalise", lambda x, size: dali_graph._equalize(x)), r"\d mean of green"),
    "does not turn": (TURNED, graph("warp", untouched), r"affine: probability"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_broken_is_reported(name: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, breakage, expected = BREAKAGES[name]
    breakage(monkeypatch)
    found = differing(parity.compare(recipe_of(images, pipeline)))
    assert [row for row in found if re.search(expected, row)], found


def test_other_random_numbers_of_the_same_law_agree(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statistics do not rest on both loaders taking the same decisions; one row alone says so."""
    unrelated(monkeypatch)
    found = differing(parity.compare(recipe_of(images, LARGE, SMALL)))
    assert found == ["augmentations.0 distance of the same crops", "augmentations.1 distance of the same crops"]


def test_normalisation_is_compared(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = parity._dali

    def shifted(recipe: Recipe) -> Any:
        return lambda paths, a: ordinary(recipe)(paths, a) + 0.1

    monkeypatch.setattr(parity, "_dali", shifted)
    found = differing(parity.compare(recipe_of(images, SMALL)))
    assert "augmentations.0 mean of green" in found


ARGUMENTS = ["doctor", "--loaders", "digits/bam", "dali.device=cpu", "augmentations.0.crop_size=16"]


def test_the_command_says_so(capsys: Any) -> None:
    assert main(ARGUMENTS) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" +torchvision +DALI +difference +tolerance", lines[0])
    assert all(line.endswith("  ok") for line in lines[1:-1])
    assert lines[-1] == f"{len(lines) - 2} figures of 256 crops each, seed 5, dali.device cpu: all agree"


def test_the_command_fails_where_they_differ(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph("jitter", untouched)(monkeypatch)
    assert main(ARGUMENTS) == 1
    output = capsys.readouterr().out
    assert re.search(r"augmentations.0 color_jitter: probability +0\.\d+ +0\.0000 .*  differs", output)
    assert re.search(r"\d+ differ$", output.strip())


def test_crops_have_the_recipes_kinds(images: Path) -> None:
    """Every operation that a recipe can ask for is one that DALI has here."""
    for pipeline, _ in Crops("custom", recipe_of(images, LARGE, TURNED).augmentations).pipelines:
        assert [draws.kind(transform) for transform in pipeline.transforms]
