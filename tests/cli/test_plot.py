"""``solo-bam plot`` and ``solo-bam health`` as a user runs them."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib")

from PIL import Image

from solo_bam import solo_learn
from solo_bam.backbones import backbone_factory
from solo_bam.cli import main
from solo_bam.config.resolve import resolve
from solo_bam.data import find_source
from solo_bam.data.datasets.digits import digits_folder
from solo_bam.evaluate import extract_features
from solo_bam.evaluate.health import alignment, effective_rank
from solo_bam.evaluate.views import Sample, choose
from solo_bam.runs.checkpoints.read import hash_weights, untrained_backbone
from solo_bam.runs.records import Record
from solo_bam.train.run import pretrain
from tests.recipes import tiny

VIT = ("backbone.name=vit_tiny", "backbone.kwargs={patch_size: 8}", "data.fraction=0.03")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of BAM."""
    return pretrain(tiny(tmp_path_factory.mktemp("cnn"), "digits/bam", "data.fraction=0.03")).folder.path


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of BYOL with a ViT."""
    return pretrain(tiny(tmp_path_factory.mktemp("vit"), "digits/byol", *VIT)).folder.path


def _error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    return capsys.readouterr().err


def test_a_run_ends_with_its_pictures(run: Path, vit: Path) -> None:
    assert (run / "curves.png").exists()
    assert sorted(p.name for p in (run / "plots").iterdir()) == ["entropy.png", "features.png", "similarity.png"]
    assert sorted(p.name for p in (vit / "plots").iterdir()) == ["attention.png", "features.png", "similarity.png"]
    for path in [run / "curves.png", *(run / "plots").iterdir()]:
        assert Image.open(path).width > 600


@pytest.mark.pictures
def test_an_error_in_a_picture_does_not_lose_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr("solo_bam.train.pictures.plot_similarity", broken)
    monkeypatch.setattr("solo_bam.train.pictures.plot_features", broken)
    with pytest.warns(UserWarning, match=r"picture similarity could not be drawn \(RuntimeError: no room\)"):
        trained = pretrain(tiny(tmp_path, "digits/bam", "data.fraction=0.03"))
    assert trained.folder.record()["status"] == "finished"
    assert (trained.folder.path / "curves.png").exists()
    assert (trained.folder.path / "plots" / "entropy.png").exists()


@pytest.mark.parametrize("what", ["curves", "entropy", "similarity", "features"])
def test_a_picture_of_a_checkpoint(what: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / f"{what}.svg"
    checkpoint = run / "checkpoints" / "epoch=0.ckpt"  # an equals sign does not make a path a setting
    assert main(["plot", what, str(checkpoint), f"output={target}", "num_images=32"]) == 0
    assert capsys.readouterr().out.endswith(f"Picture: {target}\n")
    assert target.read_text().startswith("<?xml")


def test_attention_of_given_images(vit: Path, tmp_path: Path) -> None:
    pictures = sorted(str(p) for p in (digits_folder() / "val" / "3").iterdir())[:2]
    target = tmp_path / "attention.png"
    assert main(["plot", "attention", str(vit), f"images=[{','.join(pictures)}]", f"output={target}"]) == 0
    assert Image.open(target).width > 400


def test_several_runs_have_names_of_their_own(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from solo_bam.train import pictures

    copy = tmp_path / "bam" / run.name
    shutil.copytree(run, copy)
    seen: dict[str, Any] = {}
    monkeypatch.setattr(pictures, "draw_runs", lambda runs, path, title: seen.update(runs))
    assert main(["plot", "curves", str(run), str(copy), f"output={tmp_path / 'x.png'}"]) == 0
    assert len(seen) == 2
    assert all(run.name in name for name in seen)


def test_confusion_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "confusion.csv").write_text("true,a,b\na,3,1\nb,0,4\n")
    assert main(["plot", "confusion", str(tmp_path), "format=pdf"]) == 0
    assert (tmp_path / "evaluation" / "confusion.pdf").exists()
    (tmp_path / "bad.csv").write_text("true,a,b\nb,3,1\na,0,4\n")
    assert "no square table of counts" in _error(capsys, "plot", "confusion", tmp_path / "bad.csv")
    assert "cannot be read (No such file" in _error(capsys, "plot", "confusion", tmp_path / "none.csv")


def test_bad_input(run: Path, vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG nothing")
    empty = tmp_path / "empty"
    (empty / "logs").mkdir(parents=True)
    cases = [
        (["curves", empty], "RUN: ", "has no metrics"),
        (["curves", tmp_path / "none"], "RUN: ", "there is no folder"),
        (["entropy", vit], "RUN: ", "has no attention entropy, byol has no attention"),
        (["entropy", run, vit], "entropy: ", "got 2 paths, takes RUN;"),
        (["attention", vit, f"images=[{bad}]"], "images: ", f"{bad} cannot be read ("),
        (["attention", run], "attention: ", "is a single point"),
        (["similarity", empty], "checkpoint: ", "there is no checkpoint in"),
        (["features", run, "branch=teacher"], "branch: ", "has none"),
        (["features", run, "reducton=umap"], "reducton: ", "did you mean reduction?"),
        (["features", run, "output=picture"], "output: ", "must end in .png, .pdf or .svg"),
        (["features", run, f"data.val_path={tmp_path / 'none'}"], "data.val_path: ", "there is no folder"),
        (["histogram", run], "solo-bam plot: ", "invalid choice"),
    ]
    for arguments, key, problem in cases:
        message = _error(capsys, "plot", *arguments)
        assert message.startswith(f"solo-bam: error: {key}"), message
        assert problem in message
        assert message.count("\n") == 1
    assert not list(tmp_path.glob("**/*.png.part"))


@pytest.mark.parametrize(("package", "key", "extra"), [("matplotlib", "plot", "plots"), ("umap", "reduction", "umap")])
def test_what_to_install(
    package: str, key: str, extra: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [n for n in sys.modules if n.startswith(("solo_bam.train.pictures", "solo_bam.plots", package))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("solo_bam.train.pictures", raising=False)
    ordinary = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return ordinary(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    message = _error(capsys, "plot", "features", run, "reduction=umap", "num_images=8")
    assert message.startswith(f"solo-bam: error: {key}: ")
    assert f"pip install 'solo-bam[{extra}]'" in message
    assert message.count("\n") == 1


def test_health_is_written_with_its_protocol(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", str(run), "num_images=100"]) == 0
    (path,) = (run / "evaluation").glob("health-*.json")
    written = json.loads(path.read_text())
    records = {record.metric: record for record in map(Record.model_validate, written)}
    assert list(records) == ["RankMe", "alpha-ReQ", "alignment", "uniformity", "spread", "LiDAR"]
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert f"{records['RankMe'].value:.3f}" in capsys.readouterr().out
    rank = records["RankMe"]
    assert (rank.images, rank.data, rank.method, rank.epoch) == (100, "digits val", "bam", content["epoch"] + 1)
    assert records["alpha-ReQ"].protocol.fit_from_rank == 11

    from solo_bam.runs.checkpoints.read import load_pretrained

    trained = load_pretrained(run)
    sample = Sample.of(trained.recipe, trained.recipe.data, 32, None).take(100)
    assert rank.value == pytest.approx(effective_rank(sample.features(trained.backbone).values), rel=1e-4)
    views = sample.views(trained.backbone)
    assert records["alignment"].value == pytest.approx(alignment(views[0], views[1]), rel=1e-4)


def test_views_are_two_crops_and_the_same_every_time(run: Path) -> None:
    from solo_bam.runs.checkpoints.read import load_pretrained

    trained = load_pretrained(run)
    sample = Sample.of(trained.recipe, trained.recipe.data, 4, None).take(10)
    torch.manual_seed(1)
    views = sample.views(trained.backbone)
    torch.manual_seed(2)
    assert torch.equal(views, sample.views(trained.backbone))
    assert views.shape == (2, 10, 96)
    assert not torch.allclose(views[0], views[1])
    plain = extract_features(trained.backbone, sample.split(lambda _: torch.zeros(3, 16, 16)))
    assert sample.features(trained.backbone).values.shape == plain.values.shape


def test_a_sample_has_pairs_of_a_class() -> None:
    import numpy as np

    targets = np.arange(5000) % 1000
    chosen = choose(targets, 80)
    assert len(set(targets[chosen].tolist())) == 10
    assert len(chosen) == 50  # all there are of ten classes
    assert (choose(targets, 80) == chosen).all()
    assert (choose(np.full(30, -1), 100) == np.arange(30)).all()


@pytest.mark.parametrize("name", ["digits/bam_momentum", "digits/byol"])
def test_the_untrained_network_is_that_of_the_run(name: str, tmp_path: Path) -> None:
    recipe = tiny(tmp_path, name)
    state = torch.get_rng_state()
    untrained = untrained_backbone(recipe)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(recipe.seed)
    cfg = resolve(recipe, find_source(recipe.data).num_classes, True, 1)
    started = solo_learn.build_method(cfg, backbone_factory(cfg.backbone))
    assert hash_weights(untrained) == hash_weights(started.backbone)  # type: ignore[arg-type]
