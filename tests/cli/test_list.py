"""``solo-bam list`` names what there is."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from solo_bam import solo_learn
from solo_bam.cli import main
from solo_bam.cli.list import WHAT, fits
from solo_bam.config.find import recipe_folders, recipe_names
from solo_bam.config.listing import DATASETS, METRICS
from solo_bam.config.schema import ImageData


def listed(capsys: Any, *words: str) -> dict[str, str]:
    """name -> description."""
    assert main(["list", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {name: text.strip() for name, _, text in (line.strip().partition(" ") for line in lines)}


@pytest.mark.parametrize(("what", "kind"), [("recipes", "pretrain"), ("linear", "linear"), ("comparisons", "compare")])
def test_every_recipe_is_listed_with_its_first_sentence(what: str, kind: str, capsys: Any) -> None:
    found = listed(capsys, what)
    assert list(found) == recipe_names(recipe_folders(kind))
    assert all(3 < len(text) <= 110 and "`solo-bam" not in text for text in found.values())


def test_a_sentence_is_the_files(capsys: Any) -> None:
    assert listed(capsys, "recipes", "cifar/byol") == {"cifar/byol": "BYOL on CIFAR, ResNet-18"}


def test_methods_and_their_metrics(capsys: Any) -> None:
    assert list(listed(capsys, "methods")) == solo_learn.known_names()
    metrics = listed(capsys, "metrics")
    assert {*METRICS, "source_entropy", "RankMe"} <= {*metrics}
    assert metrics["source_entropy"].endswith("method=bam, bam_momentum")


def test_backbones_by_pattern(capsys: Any) -> None:
    import timm

    found = listed(capsys, "backbones", "vit_tiny*")
    assert {*timm.list_models("vit_tiny*")} <= {*found}
    assert all(name.startswith("vit_tiny") for name in found)
    assert found["vit_tiny"] == "solo-learn's"


def test_data_sets_and_figures(capsys: Any) -> None:
    assert set(DATASETS) == set(get_args(ImageData.model_fields["dataset"].annotation))
    assert set(listed(capsys, "datasets")) == set(DATASETS)
    assert "curves" in listed(capsys, "figures")


def test_without_a_word_it_says_which_there_are(capsys: Any) -> None:
    assert set(listed(capsys)) == set(WHAT)


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("digits/bam", "bam", True),
        ("digits/bam", "bam*", False),
        ("digits/bam", "*/bam", True),
        ("digits/bam_momentum", "*/bam", False),
        ("digits/bam", "d?gits/b[a]m", True),
    ],
)
def test_patterns(name: str, pattern: str, expected: bool) -> None:
    assert fits(name, pattern) is expected


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["recpes"], ["recpes", "did you mean recipes?", "backbones"]),
        (["recipes", "digits/bma"], ["digits/bma", "did you mean digits/bam?", "cifar/bam"]),
        (["figures", "curvs"], ["curvs", "did you mean curves?", "confusion"]),
    ],
)
def test_mistakes_are_one_line(words: list[str], told: list[str], capsys: Any) -> None:
    assert main(["list", *words]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert len(out.err.splitlines()) == 1
    assert all(word in out.err for word in told)
