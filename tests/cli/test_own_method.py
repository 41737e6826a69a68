"""A method of one's own through ``solo-bam pretrain --import``, as docs/adding-a-method.md tells."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from solo_bam import solo_learn
from solo_bam.cli import main
from solo_bam.core.errors import UserError
from tests.recipes import tiny, tiny_overrides
from tests.zygote import Zygote

OWN = ["--config-name", "digits/simclr", "method=alignment", "~method_kwargs"]


def _own(tmp_path: Path, *overrides: str) -> list[str]:
    return ["pretrain", "--import", "tests.example_method", *OWN, *tiny_overrides(tmp_path, *overrides)]


def test_it_trains_two_steps(tmp_path: Path, zygote: Zygote) -> None:
    """In a process of its own, which knows the method from ``--import`` alone."""
    words = _own(tmp_path, "limit_train_batches=2", "method_kwargs.uniformity=0.5")
    start = zygote.start(words, tmp_path / "output")
    assert start.wait(300) == 0, start.output.read_text()
    (record,) = tmp_path.glob("alignment/*/run.json")
    results = json.loads(record.read_text())["results"]
    assert {"align_epoch", "spread_epoch", "train_class_loss_epoch", "val_knn_acc1"} <= set(results)
    assert 0 < results["align_epoch"] < 4
    assert "proj_output_dim: 128" in (record.parent / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("method_kwargs.uniformiy=1", "method_kwargs.uniformiy: unknown key .*did you mean uniformity"),
        ("method_kwargs.uniformity=-1", "method_kwargs.uniformity: got -1, must be greater than or equal to 0"),
        ("augmentations.0.num_crops=3", "augmentations: got 3 large crops, alignment takes 2"),
    ],
)
def test_its_mistakes_are_one_line(
    override: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(solo_learn.METHODS)
    try:
        assert main(_own(tmp_path, override)) == 2
    finally:
        solo_learn.METHODS.clear()
        solo_learn.METHODS.update(before)
        sys.modules.pop("tests.example_method", None)
    assert re.search(problem, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_module_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--import", "no_such_module", "--config-name", "digits/bam"]) == 2
    assert "--import: there is no module 'no_such_module'" in capsys.readouterr().err


def test_a_recipe_cannot_ask_for_an_import(tmp_path: Path) -> None:
    for key in ("import", "modules", "import_modules"):
        with pytest.raises(UserError, match=f"^{key}: unknown key"):
            tiny(tmp_path, "digits/bam", f"+{key}=[os]")
