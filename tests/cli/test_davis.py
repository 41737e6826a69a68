"""``solo-bam davis`` on a small folder in DAVIS's layout."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from solo_bam.cli import main
from solo_bam.data.datasets.davis import read_palette
from solo_bam.evaluate.davis import score_sequence
from solo_bam.runs.checkpoints.read import hash_weights
from solo_bam.runs.records import read_records
from tests.recipes import tiny
from tests.saved import save_run

SMALL = ["short_side=64", "layer=conv1", "accelerator=cpu"]


def _davis(root, videos=("car", "dog"), frames=4):
    """Moving squares, one object in the first video, two in the second."""
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("\n".join(videos) + "\n")
    for objects, video in enumerate(videos, start=1):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "480p" / video).mkdir(parents=True)
        for i in range(frames):
            labels = np.zeros((48, 80), dtype=np.uint8)
            for number in range(1, objects + 1):
                labels[20 * number - 16 : 20 * number, 8 * i + 8 : 8 * i + 32] = number
            picture = np.array([[60, 60, 60], [230, 40, 40], [40, 40, 230]], dtype=np.uint8)[labels]
            Image.fromarray(picture).save(root / "JPEGImages" / "480p" / video / f"{i:05}.jpg", quality=95)
            annotation = Image.fromarray(labels)
            annotation.putpalette([0, 0, 0, 1, 2, 3, 4, 5, 6])
            annotation.save(root / "Annotations" / "480p" / video / f"{i:05}.png")
    return root


def test_masks_table_and_records(tmp_path, capsys):
    student, _ = save_run(tmp_path / "run", tiny(tmp_path))
    root = _davis(tmp_path / "DAVIS")
    assert main(["davis", str(tmp_path / "run"), f"data.path={root}", *SMALL]) == 0
    told = capsys.readouterr().out
    (folder,) = (tmp_path / "run" / "evaluation").glob("davis-val-student-*")
    means = {"J": [], "F": []}
    for objects, video in enumerate(("car", "dog"), start=1):
        masks = sorted((folder / video).glob("*.png"))
        assert [m.name for m in masks] == [f"{i:05}.png" for i in range(4)]
        assert read_palette(masks[0])[:9] == [0, 0, 0, 1, 2, 3, 4, 5, 6]
        found = np.stack([np.array(Image.open(m)) for m in masks])
        truths = np.stack([np.array(Image.open(p)) for p in sorted((root / "Annotations/480p" / video).glob("*.png"))])
        assert np.array_equal(found[0], truths[0])
        scores = score_sequence(truths, found)
        assert len(scores) == objects
        means["J"] += [s.region.mean for s in scores]
        means["F"] += [s.boundary.mean for s in scores]
    j, f = (100 * float(np.mean(means[m])) for m in "JF")
    assert j > 80  # random filters tell such colours apart
    records = {r.metric: r for r in read_records(tmp_path / "run" / "evaluation")}
    assert [records[m].value for m in ("J mean", "F mean", "J&F mean")] == pytest.approx([j, f, (j + f) / 2])
    first = records["J&F mean"]
    assert (first.data, first.images, first.weights) == ("DAVIS-2017 val", 4, hash_weights(student))
    assert first.protocol.features == "conv1"
    assert [getattr(first.protocol, k) for k in ("topk", "n_last_frames", "size_mask_neighborhood", "temperature")] == [
        5,
        7,
        12,
        0.1,
    ]
    assert f"J&F mean {(j + f) / 2:.1f}" in told
    with (folder / "objects.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(r["sequence"], r["object"]) for r in rows] == [("car", "1"), ("dog", "1"), ("dog", "2")]
    assert float(rows[0]["J mean"]) == pytest.approx(100 * means["J"][0], abs=0.01)


def test_a_vit_of_small_images_sees_large_frames(tmp_path):
    words = ["backbone.name=vit_tiny", "backbone.kwargs.patch_size=8", "backbone.cifar_stem=null"]
    save_run(tmp_path / "run", tiny(tmp_path, "digits/bam", *words))
    root = _davis(tmp_path / "DAVIS", videos=("car",), frames=3)
    masks = tmp_path / "masks"
    words = [f"data.path={root}", "short_side=64", "accelerator=cpu", f"output={masks}"]
    assert main(["davis", str(tmp_path / "run"), *words]) == 0
    assert len(list(masks.glob("car/*.png"))) == 3


def test_bad_input(tmp_path, capsys):
    save_run(tmp_path / "run", tiny(tmp_path))
    root = _davis(tmp_path / "DAVIS")
    gap = _davis(tmp_path / "gap")
    (gap / "JPEGImages" / "480p" / "dog" / "00002.jpg").unlink()
    colours = _davis(tmp_path / "colours")
    first = colours / "Annotations" / "480p" / "car" / "00000.png"
    Image.open(first).convert("RGB").save(first)
    cases = [
        ([], "data.path: is missing; give the folder of DAVIS-2017"),
        ([f"data.path={tmp_path}"], "data.path: there is no file"),
        ([f"data.path={root}", "data.split=train"], "ImageSets/2017/train.txt"),
        ([f"data.path={gap}"], "data.path: sequence dog has 3 frames and 4 annotations"),
        ([f"data.path={colours}"], "holds colours (RGB) instead of object numbers"),
        ([f"data.path={root}", "layer=layer9"], "layer: got 'layer9', allowed: submodules of conv1"),
        ([f"data.path={root}", "topk=0"], "topk: got 0, must be greater than or equal to 1"),
        ([f"data.path={root}", "branch=teacher"], "branch: got 'teacher', the checkpoint's method has none"),
    ]
    for words, message in cases:
        assert main(["davis", str(tmp_path / "run"), *words, "short_side=64"][: None if words else 3]) == 2, message
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "run" / "evaluation").exists()
