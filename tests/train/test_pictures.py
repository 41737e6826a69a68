"""What is drawn of what: the pictures at a run's end, and images that a user gives."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("matplotlib")

from solo_bam.core.errors import UserError
from solo_bam.data import find_source
from solo_bam.evaluate.views import Sample
from solo_bam.runs.checkpoints.read import backbone_of
from solo_bam.runs.folder import RunFolder
from solo_bam.train import pictures
from tests.recipes import tiny

VIT = ["backbone.name=vit_tiny", "backbone.kwargs.patch_size=8", "backbone.cifar_stem=null"]


@pytest.mark.parametrize(("overrides", "drawn"), [([*VIT, "augmentations.0.crop_size=16"], True), ([], False)])
def test_attention_is_drawn_of_a_vit_at_a_runs_end(
    overrides: list[str], drawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("plot_curves", "plot_similarity", "plot_features"):
        monkeypatch.setattr(pictures, other, lambda *_: None)
    recipe = tiny(tmp_path, "digits/bam", *overrides)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.draw_finished(RunFolder(tmp_path), recipe, backbone_of(recipe).train(), find_source(recipe.data))
    assert (tmp_path / "plots" / "attention.png").exists() == drawn


def test_a_given_image_is_read_as_those_of_a_data_set(tmp_path: Path) -> None:
    recipe = tiny(tmp_path)
    sample = Sample(find_source(recipe.data).train, recipe, "digits train")
    deep = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).save(tmp_path / "plain.png")
    first, second = pictures._given_images([tmp_path / "deep.png", tmp_path / "plain.png"], sample)
    torch.testing.assert_close(first, second)
    (tmp_path / "program.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n")
    with pytest.raises(UserError, match="^images: .*program.eps cannot be read"):
        pictures._given_images([tmp_path / "program.eps"], sample)
