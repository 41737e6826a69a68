"""``import solo_bam`` in a notebook: runs and comparisons as objects, mistakes as one-line exceptions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import solo_bam
from solo_bam.runs.folder import RunFolder
from tests.comparison.synthetic import results
from tests.recipes import TINY, tiny_overrides

pd = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
SMALL = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> solo_bam.Run:
    lines = [line for line in TINY if not line.startswith("max_epochs")]
    folder = tmp_path_factory.mktemp("runs")
    return solo_bam.pretrain("digits/bam", *lines, max_epochs=2, checkpoint={"dir": folder}, pictures=False)


def test_the_import_is_light() -> None:
    code = (
        "import sys, solo_bam; dir(solo_bam); sys.exit(bool({'torch', 'pandas', 'pydantic', 'hydra'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert {"pretrain", "load", "compare"} <= set(dir(solo_bam))
    with pytest.raises(AttributeError, match="pretrian"):
        print(solo_bam.pretrian)


def test_a_run_has_a_row_of_metrics_per_epoch(run: solo_bam.Run) -> None:
    table = run.metrics
    assert list(table.index) == [0, 1]
    assert table.index.name == "epoch"
    assert table["bam_loss"].notna().all()
    assert not [name for name in table if name.endswith(("_step", "_epoch")) or name == "step"]
    logged = [row for row in RunFolder(run.folder).metrics() if "bam_loss_epoch" in row]
    assert table["bam_loss"].tolist() == [row["bam_loss_epoch"] for row in logged]


def test_its_network_is_that_of_its_checkpoint(run: solo_bam.Run) -> None:
    state = torch.load(run.checkpoint, weights_only=True)["state_dict"]
    (weight,) = [
        value
        for name, value in state.items()
        if name.endswith("der.conv1.0.weight") or name == "backbone.conv1.0.weight"
    ]
    assert torch.equal(run.network.conv1[0].weight, weight)
    assert not run.network.training
    assert run.network(torch.zeros(2, 3, 16, 16)).shape == (2, 96)


def test_it_is_the_same_when_it_is_loaded(run: solo_bam.Run) -> None:
    for place in (run.folder, str(run.folder), run.checkpoint):
        loaded = solo_bam.load(place)
        assert loaded.checkpoint == run.checkpoint
        assert loaded.folder == run.folder
        assert loaded.metrics.equals(run.metrics)
    early = solo_bam.load(run.folder / "checkpoints" / "epoch=0.ckpt")
    assert early.checkpoint.name == "epoch=0.ckpt"
    assert not torch.equal(early.network.conv1[0].weight, run.network.conv1[0].weight)


def test_it_is_measured(run: solo_bam.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    knn = run.knn("distance=cosine", k=[1, 5], data={"fraction": 0.05}, num_workers=0)
    assert knn["k"].tolist() == [1, 5]
    assert ((knn["low"] < knn["accuracy"]) & (knn["accuracy"] < knn["high"])).all()
    linear = run.linear(max_epochs=1, limit_train_batches=2, data={"num_workers": 0}, **SMALL)
    assert 0 < linear.loc["accuracy", "low"] < linear.loc["accuracy", "value"] < linear.loc["accuracy", "high"]
    assert run.plot("confusion").axes


def test_it_is_drawn(run: solo_bam.Run) -> None:
    figure = run.plot("curves")
    assert "Loss" in [axis.get_title() for axis in figure.axes]
    assert (run.folder / "curves.png").exists()
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert run.plot("similarity", num_images=16, num_workers=0).axes
    assert run.explore("reduction=pca", num_images=16, num_workers=0).name == "explore.html"


def test_it_tells_what_it_is(run: solo_bam.Run) -> None:
    accuracy = f"{RunFolder(run.folder).record()['results']['val_acc1']:.4g}"
    for told in (repr(run), run._repr_html_()):
        assert all(word in told for word in ("bam", "digits", "finished", "val_acc1", accuracy, str(run.folder)))


def _mistakes(run: solo_bam.Run) -> dict[str, Callable[[], Any]]:
    return {
        "max_epoch: .*max_epochs": lambda: solo_bam.pretrain("digits/bam", max_epoch=5),
        "digits/bom": lambda: solo_bam.pretrain("digits/bom"),
        "nowhere": lambda: solo_bam.pretrain("nowhere/mine.yaml"),
        "changes: ": lambda: solo_bam.pretrain("digits/bam", {"max_epochs": 5}),  # type: ignore[arg-type]
        "optimizer.lr: got <object": lambda: solo_bam.pretrain("digits/bam", optimizer={"lr": object()}),
        "run: there is no file": lambda: solo_bam.load("nowhere"),
        "branch: got 'both'": lambda: solo_bam.load(run.folder, "both"),  # type: ignore[arg-type]
        "branch: .*teacher": lambda: solo_bam.load(run.folder, "teacher").network,
        "kk: ": lambda: run.knn(kk=1),
        "kind: .*curves": lambda: run.plot("curve"),
        "kind: got 'confusion'": lambda: solo_bam.load(run.folder).plot("confusion"),
        "max_epoch: ": lambda: run.linear(max_epoch=1),
        "digitz": lambda: solo_bam.compare("digitz"),
        "method: .*methods": lambda: solo_bam.compare("digits", method=["bam"]),
    }


@pytest.mark.parametrize("problem", _mistakes(None))  # type: ignore[arg-type]
def test_a_mistake_is_an_exception_of_one_line(problem: str, run: solo_bam.Run) -> None:
    with pytest.raises(solo_bam.UserError, match=problem) as caught:
        _mistakes(run)[problem]()
    assert str(caught.value).isprintable()


def test_a_finished_run_is_not_resumed(run: solo_bam.Run) -> None:
    lines = [*tiny_overrides(run.folder.parents[1]), "max_epochs=2", "pictures=False"]
    with pytest.raises(solo_bam.UserError, match="--resume: .* is finished"):
        solo_bam.pretrain("digits/bam", *lines, resume=True)


def test_a_recipe_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from solo_bam.train import run as training

    seen: list[Any] = []
    monkeypatch.setattr(training, "pretrain", lambda recipe, resume: seen.append(recipe) or pytest.skip("reached"))
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - digits/base@_global_\n  - methods/bam@_global_\n  - _self_\nname: mine\n"
    )
    with pytest.raises(pytest.skip.Exception):
        solo_bam.pretrain(tmp_path / "mine.yaml", augmentations=[{"crop_size": 16, "num_crops": 2}], seed=3)
    assert (seen[0].name, seen[0].seed, seen[0].augmentations[0].crop_size) == ("mine", 3, 16)


# ----------------------------------------------------------------------------------------- comparisons


def test_a_comparison_is_a_table_and_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from solo_bam.comparison import run as comparing

    planned: list[Any] = []
    made = results(tmp_path, entries=("bam", "byol"), failed=[("byol", 2)])

    def compare(plan: Any, launcher: Any) -> Any:
        planned.append((plan.comparison, launcher))
        return made, tmp_path / "report.html"

    monkeypatch.setattr(comparing, "compare", compare)
    found = solo_bam.compare(
        "digits", "hydra/launcher=basic", methods=["bam", "byol"], seeds=[0, 1, 2], output=tmp_path
    )
    assert [entry.name for entry in planned[0][0].methods] == ["bam", "byol"]
    assert planned[0][1] == ["hydra/launcher=basic"]
    assert found.report == tmp_path / "report.html"
    column = next(one for one in made.columns if not one.online)
    estimate = column.estimate("bam")
    assert estimate is not None
    assert found.table.loc["bam", (column.title, "mean")] == estimate.mean
    assert found.table.loc["byol", (column.title, "seeds")] == 2
    assert len(found.table) == 2
    for told in ("bam", "byol", "FAILED", "report.html"):
        assert told in found._repr_html_()
    assert "report.html" in repr(found)
