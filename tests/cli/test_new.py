"""``solo-bam new``: a recipe that suits a folder of images, and trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from solo_bam.cli import main
from solo_bam.config import load_recipe


def _images(folder: Path, count: int, size: tuple[int, int] = (40, 50)) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_class_folders_with_validation_images(capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("train", 20), ("test", 4)):
        for name in ("naïve (1)", "b"):
            _images(Path("my photos") / split / name, count)
    assert main(["new", "my photos", "--output", "mine.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "40 images, 2 classes, shorter side 40 to 40 px (median 40); 8 to validate" in printed
    assert "solo-bam pretrain --config-path . --config-name mine" in printed
    recipe = load_recipe("mine", [], ".")
    assert (recipe.augmentations[0].crop_size, recipe.optimizer.batch_size, recipe.max_epochs) == (32, 16, 400)
    assert (recipe.data.val_path, recipe.name) == (Path("my photos/test").absolute(), "my photos")
    tiny = ["limit_train_batches=1", "max_epochs=1", "scheduler.warmup_epochs=0", "pictures=False", "precision=32"]
    small = ["method_kwargs.proj_hidden_dim=8", "method_kwargs.proj_output_dim=8", "data.num_workers=0"]
    assert main(["pretrain", "--config-path", ".", "--config-name", "mine", *tiny, *small]) == 0
    assert "knn_acc1" in capsys.readouterr().out


def test_class_folders_alone_are_measured_on_images_that_were_held_out(capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        _images(Path("photos") / name, 40)
    assert main(["new", "photos"]) == 0
    tiny = ["limit_train_batches=1", "max_epochs=1", "scheduler.warmup_epochs=0", "pictures=False", "precision=32"]
    small = ["method_kwargs.proj_hidden_dim=8", "method_kwargs.proj_output_dim=8", "data.num_workers=0"]
    small += ["backbone.name=test_resnet", "backbone.cifar_stem=False"]
    assert main(["pretrain", "--config-path", ".", "--config-name", "photos", *tiny, *small]) == 0
    (run,) = Path("trained_models/bam").iterdir()
    assert main(["knn", str(run), "k=1"]) == 0
    assert main(["linear", str(run), "max_epochs=1"]) == 0
    told = capsys.readouterr().out
    assert told.count("custom train, 10 % held out") >= 2
    for path in (run / "evaluation").glob("knn-*.json"):
        assert {record["images"] for record in json.loads(path.read_text())} == {8}


def test_so_few_that_there_are_no_twenty_neighbors() -> None:
    for name in "ab":
        _images(Path("photos") / name, 10)
    assert main(["new", "photos"]) == 0
    recipe = load_recipe("photos", [], ".")
    assert (recipe.knn_eval.k, recipe.optimizer.batch_size) == (18, 8)


def test_loose_images(capsys: pytest.CaptureFixture[str]) -> None:
    _images(Path("photos"), 12, (300, 260))
    (Path("photos") / "broken.png").write_bytes(b"no image")
    assert main(["new", "photos"]) == 0
    assert "1 of 13 cannot be read" in capsys.readouterr().out
    recipe = load_recipe("photos", [], ".")
    assert recipe.data.no_labels
    assert recipe.data.on_error == "skip"
    assert [one.crop_size for one in recipe.augmentations] == [224, 224]
    assert [one.gaussian_blur.prob for one in recipe.augmentations] == [1.0, 0.1]


def test_nothing_is_overwritten_and_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos.yaml").write_text("mine")
    Path("empty").mkdir()
    _images(Path("photos"), 1)
    _images(Path("few") / "a", 4)
    for words, told in (
        (["photos"], "--output: photos.yaml is there already"),
        (["photos", "--output", "x.yml"], "--output: got x.yml"),
        (["absent"], "absent: is no folder"),
        (["few"], "few: has 4 images, too few to train on"),
        (["empty"], "data.train_path: "),
    ):
        assert main(["new", *words]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert Path("photos.yaml").read_text() == "mine"
    assert not Path("empty.yaml").exists()
