"""Datasets, crops and the order in which images are seen."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from solo_bam.config.schema import Augmentation
from solo_bam.data import PretrainData, find_source
from solo_bam.data.datasets.digits import digits_folder
from solo_bam.data.sampling import EpochSampler, seeded
from solo_bam.data.transforms.augmentations import MEAN_STD, build_pipeline, plain_view
from tests.recipes import tiny


def test_digits_are_written_once_and_whole() -> None:
    folder = digits_folder()
    images = sorted(folder.rglob("*.png"))
    assert len(images) == 1797
    assert len(list((folder / "val").rglob("*.png"))) == 360
    assert sorted(p.name for p in (folder / "train").iterdir()) == [str(d) for d in range(10)]
    written = images[0].stat().st_mtime_ns
    assert digits_folder() == folder
    assert images[0].stat().st_mtime_ns == written
    assert not list(folder.parent.glob("digits-*"))


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    path = next((digits_folder() / "train" / "3").iterdir())
    pixels = np.asarray(Image.open(path))
    expected = load_digits().images[int(path.stem)]
    assert np.abs(pixels / 255 * 16 - expected).max() < 0.04
    assert load_digits().target[int(path.stem)] == 3


def test_digits_normalisation_is_measured() -> None:
    pixels = np.stack([np.asarray(Image.open(p)) for p in digits_folder().rglob("*.png")]) / 255
    mean, std = MEAN_STD["digits"]
    assert pixels.mean() == pytest.approx(mean[0], abs=1e-3)
    assert pixels.std() == pytest.approx(std[0], abs=1e-3)


def _picture(size: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _only(**settings: Any) -> Augmentation:
    return Augmentation(
        **{"crop_size": 40, "num_crops": 1, "rrc": {"enabled": False}, "mean": [0] * 3, "std": [1] * 3, **settings}
    )


IDENTITY = torch.from_numpy(np.array(_picture())).permute(2, 0, 1) / 255


def test_a_pipeline_without_operations_is_the_image() -> None:
    torch.testing.assert_close(build_pipeline("custom", _only())(_picture()), IDENTITY)


@pytest.mark.parametrize(
    "operation",
    [
        {"affine": {"prob": 0.3, "translate": 0.4, "degrees": 30}},
        {"color_jitter": {"prob": 0.3, "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2}},
        {"grayscale": {"prob": 0.3}},
        {"gaussian_blur": {"prob": 0.3}},
        {"solarization": {"prob": 0.3}},
        {"equalization": {"prob": 0.3}},
        {"horizontal_flip": {"prob": 0.3}},
    ],
    ids=lambda operation: next(iter(operation)),
)
def test_each_operation_happens_as_often_as_asked(operation: dict[str, Any]) -> None:
    pipeline, image = build_pipeline("custom", _only(**operation)), _picture()
    with seeded(0):
        changed = np.mean([not torch.allclose(pipeline(image), IDENTITY, atol=1e-3) for _ in range(400)])
    assert abs(changed - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 400)


def test_crop_size_and_area() -> None:
    pipeline = build_pipeline(
        "custom", _only(crop_size=16, rrc={"enabled": True, "crop_min_scale": 0.2, "crop_max_scale": 0.4})
    )
    assert pipeline(_picture()).shape == (3, 16, 16)
    assert pipeline.transforms[0].scale == (0.2, 0.4)


@pytest.mark.parametrize(("crop", "resized"), [(16, 16), (64, 64), (224, 256)])
def test_plain_view(crop: int, resized: int) -> None:
    view = plain_view("custom", _only(crop_size=crop))
    assert "0x" not in str(view)  # features are kept under this name, from one process to the next
    assert view.transforms[1].size == resized  # type: ignore[attr-defined]
    assert torch.equal(view(_picture(300)), view(_picture(300)))
    assert view(_picture(300)).shape == (3, crop, crop)


def _batches(tmp_path: Path, workers: int = 0, epoch: int = 0, **recipe: Any) -> list[Any]:
    overrides = [f"{key}={value}" for key, value in recipe.items()]
    checked = tiny(tmp_path, "digits/bam", f"data.num_workers={workers}", *overrides)
    loader = PretrainData(checked, find_source(checked.data)).train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def _same(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(x[0], y[0]) and all(map(torch.equal, x[1], y[1])) for x, y in zip(a, b, strict=True))


def test_batches_are_what_solo_learn_expects(tmp_path: Path) -> None:
    indexes, crops, labels = _batches(tmp_path)[0]
    assert indexes.shape == labels.shape == (16,)
    assert [tuple(crop.shape) for crop in crops] == [(16, 3, 16, 16)] * 2
    assert not torch.equal(*crops)


def test_data_depend_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    first = _batches(tmp_path)
    torch.rand(3)
    random.random()
    assert _same(first, _batches(tmp_path))
    assert _same(first, _batches(tmp_path, workers=2))
    assert not _same(first, _batches(tmp_path, epoch=1))
    assert not _same(first, _batches(tmp_path, seed=6))


def test_persistent_workers_know_the_epoch(tmp_path: Path) -> None:
    checked = tiny(tmp_path, "digits/bam", "data.num_workers=1")
    loader = PretrainData(checked, find_source(checked.data)).train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert _same(list(loader), _batches(tmp_path, epoch=epoch))


def test_processes_share_the_images_out() -> None:
    parts = [
        [i for _, i in EpochSampler(list(range(11)), 2, rank, shuffle=True, seed=1, drop_last=True)] for rank in (0, 1)
    ]  # type: ignore[arg-type]
    assert len(parts[0]) == len(parts[1]) == 5
    assert not set(parts[0]) & set(parts[1])


def test_seeding_leaves_the_streams_outside_alone() -> None:
    torch.manual_seed(0)
    random.seed(0)
    expected = torch.rand(1), random.random()
    torch.manual_seed(0)
    random.seed(0)
    with seeded(1, 2, 3):
        inside = torch.rand(1), random.random()
    assert (torch.rand(1), random.random()) == expected != inside


def test_fraction_is_stratified_and_fixed(tmp_path: Path) -> None:
    def labels(seed: int) -> list[int]:
        checked = tiny(tmp_path, "digits/bam", "data.fraction=0.1", f"seed={seed}")
        return [int(Path(name).stem) for name in _chosen(PretrainData(checked, find_source(checked.data)))]

    assert labels(0) == labels(1)
    assert len(labels(0)) == 143


def _chosen(data: PretrainData) -> list[str]:
    images = data.train_set.dataset
    counts = np.bincount(images.targets)
    assert counts.min() >= 14
    assert counts.max() <= 15
    return [images.split.reader.name(i) for i in range(len(images))]


def test_images_without_labels(tmp_path: Path) -> None:
    for i in range(20):
        _picture(8).save(tmp_path / f"{i:02d}.png")
    overrides = ["data.dataset=custom", f"data.train_path={tmp_path}", "data.no_labels=True", "data.fraction=-1"]
    checked = tiny(tmp_path / "runs", "digits/bam", *overrides)
    source = find_source(checked.data)
    assert source.val is None
    _, _, labels = next(iter(PretrainData(checked, source).train_dataloader()))
    assert (labels == -1).all()


def test_a_process_with_living_loader_processes_ends(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "from solo_bam.data.sampling import ignore_termination\n"
        "images = TensorDataset(torch.arange(9.0))\n"
        "started = iter(DataLoader(images, num_workers=2, worker_init_fn=ignore_termination))\n"
        "next(started)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stderr) == (0, "")
