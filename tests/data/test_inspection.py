"""``solo-bam doctor --data``: what it counts and which images it names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from solo_bam.cli import main
from solo_bam.data import find_source
from solo_bam.data.datasets.inspection import Finding, inspect_split
from tests.data.pictures import encoded, folders, h5_file, picture, stl
from tests.recipes import tiny


def doctor(*overrides: str) -> int:
    return main(["doctor", "--data", "digits/bam", "data.dataset=custom", *overrides])


def lines(capsys: Any) -> list[str]:
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_a_good_dataset(tmp_path: Path, capsys: Any) -> None:
    train, val = folders(tmp_path / "train", count=5), folders(tmp_path / "val", count=3)
    (train / "b" / "009.png").unlink()
    picture(0, 40).convert("L").resize((30, 50)).save(train / "a" / "large.png")
    Image.new("P", (4, 8)).save(train / "a" / "small.png")
    assert doctor(f"data.train_path={train}", f"data.val_path={val}", "data.on_error=skip") == 0
    assert lines(capsys) == [
        f"training: 11 images in {train}",
        "classes     2, 4 (b) to 7 (a) images each",
        "width       4 / 12 / 30 px (min / median / max)",
        "height      8 / 12 / 50 px (min / median / max)",
        "modes       RGB 9, L 1, P 1",
        "unreadable  0",
        f"validation: 6 images in {val}",
        "classes     2, 3 (a) to 3 (a) images each",
        "width       12 / 12 / 12 px (min / median / max)",
        "height      12 / 12 / 12 px (min / median / max)",
        "modes       RGB 6",
        "unreadable  0",
        "all images can be read",
    ]


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_every_bad_image_is_named(policy: str, tmp_path: Path, capsys: Any) -> None:
    train, val = folders(tmp_path / "train"), folders(tmp_path / "val")
    bad = {train / "a" / "003.png": b"", train / "b" / "019.png": b"text", val / "b" / "010.png": encoded(5)[:100]}
    for path, content in bad.items():
        path.write_bytes(content)
    assert doctor(f"data.train_path={train}", f"data.val_path={val}", f"data.on_error={policy}") == 1
    page = lines(capsys)
    assert page.count("unreadable  2") == page.count("unreadable  1") == 1
    assert page[6:8] == [f"{train}/a/003.png: it is empty", f"{train}/b/019.png: its format is not recognised"]
    assert [line for line in page if line.startswith(f"{val}/b/010.png: ")]
    assert page[-1] == "3 unreadable: replace them or set data.on_error=skip"


def test_nothing_but_bad_images(tmp_path: Path, capsys: Any) -> None:
    train = folders(tmp_path / "train", count=1)
    for path in train.rglob("*.png"):
        path.write_bytes(b"")
    assert doctor(f"data.train_path={train}", "data.no_labels=True") == 1
    page = lines(capsys)
    assert page[:3] == [f"training: 2 images in {train}", "classes     none (no labels)", "unreadable  2"]
    assert "no labelled validation images" in page


def test_a_name_that_is_not_text(tmp_path: Path, capsys: Any) -> None:
    """It is printed all the same."""
    train = folders(tmp_path / "train")
    try:
        Path(os.fsdecode(os.fsencode(train) + b"/a/\xff.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes text only")
    assert doctor(f"data.train_path={train}") == 1
    assert f"{train}/a/\\udcff.png: it is empty" in lines(capsys)


def test_deep_images_are_read_and_floating_point_ones_named(tmp_path: Path, capsys: Any) -> None:
    train = folders(tmp_path / "train")
    Image.new("I;16", (12, 12), 40000).save(train / "a" / "deep.png")
    assert doctor(f"data.train_path={train}") == 0
    assert {"modes       RGB 20, I;16 1", "modes       RGB 20, I 1"} & {*lines(capsys)}  # Pillow 9.5 says the latter
    Image.new("F", (12, 12), 0.5).save(train / "a" / "float.tiff")
    assert doctor(f"data.train_path={train}") == 1
    assert f"{train}/a/float.tiff: its 32-bit pixels have no known range" in lines(capsys)


def test_findings_are_in_the_datasets_order(tmp_path: Path) -> None:
    """From several processes too."""
    path = h5_file(tmp_path / "train.h5", count=100)
    recipe = tiny(tmp_path, "digits/bam", "data.dataset=custom", "data.format=h5", f"data.train_path={path}")
    found = inspect_split(find_source(recipe.data).train)
    assert list(found.findings) == [Finding(12, 12, "RGB")] * 200
    folder = folders(tmp_path / "train", ("a",), 200)
    for i in range(200):
        Image.new("L", (i + 1, 1)).save(folder / "a" / f"{i:03d}.png")
    recipe = tiny(tmp_path, "digits/bam", "data.dataset=custom", f"data.train_path={folder}")
    found = inspect_split(find_source(recipe.data).train)
    assert [finding.width for finding in found.findings] == list(range(1, 201))


def test_unlabelled_images_are_counted_apart(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    root = stl(tmp_path / "data", monkeypatch)
    assert doctor("data.dataset=stl10", f"data.train_path={root}") == 0
    assert "classes     10, 2 (c0) to 2 (c0) images each, 30 images without a label" in lines(capsys)


def test_a_missing_dataset(tmp_path: Path, capsys: Any) -> None:
    assert doctor(f"data.train_path={tmp_path / 'gone'}") == 2
    assert "data.train_path: there is no folder" in capsys.readouterr().err
