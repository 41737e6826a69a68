"""Images that cannot be read: named, or skipped and counted."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import DataLoader

from solo_bam.core.errors import UserError
from solo_bam.data import PretrainData, Source, find_source
from tests.data.pictures import encoded, folders
from tests.recipes import tiny

DAMAGE = {
    "empty": (b"", "it is empty"),
    "text": (b"this is no image", "its format is not recognised"),
    "truncated PNG": (encoded(1)[:200], "image file is truncated"),
    "truncated JPEG": (encoded(1, "JPEG")[:-100], r"image file is truncated \(\d+ bytes not processed\)"),
    "header only": (encoded(1)[:40], "its format is not recognised"),
    "broken chunk": (encoded(1).replace(b"IDAT", b"\0\0\0\0"), "broken PNG|truncated|cannot"),
}


def source(tmp_path: Path, *overrides: str, bad: tuple[int, ...] = (), content: bytes = b"") -> Source:
    """Twenty images, some of them damaged."""
    root = folders(tmp_path / "train")
    for number in bad:
        next(root.rglob(f"{number:03d}.png")).write_bytes(content)
    return find_source(_recipe(tmp_path, *overrides).data)


def _recipe(tmp_path: Path, *overrides: str) -> Any:
    where = ["data.dataset=custom", f"data.train_path={tmp_path / 'train'}", "data.fraction=-1"]
    return tiny(tmp_path / "runs", "digits/bam", *where, *overrides)


def number(image: Image.Image) -> float:
    """A transform that tells the pictures apart."""
    return float(np.asarray(image, dtype=np.float64).mean())


@pytest.mark.parametrize("name", DAMAGE)
def test_a_bad_image_is_named_with_its_reason(name: str, tmp_path: Path) -> None:
    content, reason = DAMAGE[name]
    images = source(tmp_path, bad=(3,), content=content).train(number)
    images[2]
    with pytest.raises(UserError) as caught:
        images[3]
    assert caught.value.key == "data.train_path"
    assert caught.value.problem.startswith(f"{tmp_path}/train/a/003.png cannot be read (")
    assert re.search(reason, caught.value.problem), caught.value.problem
    assert "data.on_error=skip" in caught.value.remedy


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    images = source(tmp_path).train(number)
    (tmp_path / "train" / "b" / "013.png").unlink()
    with pytest.raises(UserError, match=r"013.png cannot be read \(No such file or directory\)"):
        images[13]


def test_mistakes_in_a_transform_are_not_taken_for_bad_images(tmp_path: Path) -> None:
    def broken(image: Image.Image) -> float:
        raise OSError("mine")

    images = source(tmp_path, "data.on_error=skip").train(broken)
    with pytest.raises(OSError, match="mine"):
        images[0]


def test_pil_still_refuses_truncated_images(tmp_path: Path) -> None:
    """No module of ours, nor one that it imports, has switched that off for the whole process."""
    source(tmp_path, "data.on_error=skip", bad=(0,)).train(number)[0]
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_raise_the_same_line(workers: int, tmp_path: Path) -> None:
    images = source(tmp_path, bad=(7, 16)).train(number)
    with pytest.raises(UserError) as here:
        images[7]
    with pytest.raises(UserError) as there:
        list(DataLoader(images, batch_size=4, num_workers=workers))
    assert str(there.value) == str(here.value)
    assert (there.value.key, there.value.problem, there.value.remedy) == (
        here.value.key,
        here.value.problem,
        here.value.remedy,
    )


@pytest.mark.parametrize(
    "problem", ["got -1, allowed: above 0", "a: b; c", "UserError: odd", "two\nlines", "Überlänge / 大"]
)
def test_errors_survive_pickling(problem: str) -> None:
    error = UserError("optimizer.lr", problem, "raise it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_next_readable_image_takes_the_place(tmp_path: Path) -> None:
    """Its label too; the last image is followed by the first."""
    found = source(tmp_path, "data.on_error=skip", bad=(8, 9, 19)).train
    images = found(number)
    assert images[8] == images[9] == images[10]
    assert images[8][1] == 1  # 008 and 009 are of class a
    assert images[19] == images[0]
    assert [Path(name).name for name in images.unreadable_names()] == ["008.png", "009.png", "019.png"]


def test_without_any_readable_image(tmp_path: Path) -> None:
    images = source(tmp_path, "data.on_error=skip", bad=tuple(range(20))).train(number)
    with pytest.raises(UserError, match="none of the 20 images can be read"):
        images[4]


def test_the_next_image_is_of_the_chosen_share(tmp_path: Path) -> None:
    source(tmp_path, bad=tuple(range(0, 20, 3)))
    recipe = _recipe(tmp_path, "data.on_error=skip", "data.fraction=0.5")
    images = PretrainData(recipe, find_source(recipe.data)).train_set.dataset
    chosen = {images.split.reader.name(i) for i in range(len(images))}
    images.transform = number  # type: ignore[assignment]
    values = {number(Image.open(name)) for name in chosen if int(Path(name).stem) % 3}
    assert {images[i][0] for i in range(len(images))} == values
    assert set(images.unreadable_names()) == {name for name in chosen if int(Path(name).stem) % 3 == 0}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_skipping_does_not_depend_on_the_loader_processes(tmp_path: Path) -> None:
    """The same crops, labels and counts, read here or in other processes."""
    source(tmp_path, bad=(2, 3, 11), content=b"no image")

    def epoch(workers: int) -> tuple[list[Any], list[str]]:
        recipe = _recipe(tmp_path, "data.on_error=skip", "optimizer.batch_size=5", f"data.num_workers={workers}")
        data = PretrainData(recipe, find_source(recipe.data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batches = list(data.train_dataloader())
        return [tensor for index, crops, label in batches for tensor in (index, *crops, label)], data.unreadable_names()

    tensors, names = epoch(0)
    assert [Path(name).name for name in names] == ["002.png", "003.png", "011.png"]
    for workers in (1, 2):
        others, same_names = epoch(workers)
        assert names == same_names
        assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))
