"""``solo-bam knn`` as a user runs it, on a network with random weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import solo_bam.evaluate.cache as cache
from solo_bam.cli import main
from solo_bam.config.options import KNNOptions, evaluation_data, parse_options, transferred_from
from solo_bam.config.schema import Data
from solo_bam.core.neighbors import accuracy, knn_scores
from solo_bam.data.datasets.digits import digits_folder
from solo_bam.runs.checkpoints.read import backbone_of, hash_weights
from solo_bam.runs.records import read_records
from tests.recipes import tiny

FEW = ["data.fraction=0.03", "num_workers=0"]  # 43 images


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a student alone."""
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    recipe = tiny(path.parent)
    torch.manual_seed(0)
    state = {f"backbone.{name}": value for name, value in backbone_of(recipe).state_dict().items()}
    about = {"method": recipe.method, "recipe": recipe.model_dump(mode="json")}
    torch.save({"state_dict": state, "epoch": 3, "solo_bam": about}, path)
    return path


@pytest.fixture(scope="module")
def output(checkpoint: Path) -> Path:
    """Records and features of one call."""
    assert main(["knn", str(checkpoint), "k=[1,20]", "temperature=[0.07,0.5]", *FEW]) == 0
    return checkpoint.parent / "evaluation"


def _features(output: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    (path,) = (output / "cache").glob(f"{name}-*.pt")
    content = torch.load(path, weights_only=True)
    return content["values"], content["labels"]


def test_every_setting_is_what_a_computation_of_its_own_gives(output: Path, checkpoint: Path) -> None:
    (bank, labels), (queries, targets) = _features(output, "train"), _features(output, "val")
    records = read_records(output)
    asked = [("cosine", 0.07), ("cosine", 0.5), ("euclidean", None)]
    assert [(r.protocol.distance, r.protocol.temperature) for r in records] == [a for a in asked for _ in range(4)]
    for record in records:
        protocol: Any = record.protocol
        temperature = protocol.temperature or 1.0
        scores = knn_scores(bank, labels, queries, 10, protocol.k, temperature, protocol.distance)
        best = min(5, protocol.k) if record.metric == "accuracy@5" else 1
        assert record.value == pytest.approx(accuracy(scores, targets, best), abs=1e-4)
        assert record.interval[0] < record.value < record.interval[1]
    backbone = backbone_of(tiny(checkpoint.parent))
    backbone.load_state_dict(
        {k.removeprefix("backbone."): v for k, v in torch.load(checkpoint, weights_only=True)["state_dict"].items()}
    )
    assert {(r.method, r.branch, r.epoch, r.weights) for r in records} == {
        ("bam", "student", 4, hash_weights(backbone))
    }
    assert {(r.data, r.images, r.protocol.bank) for r in records} == {
        ("digits val", 360, "train, clean, 3 % (43 images)")
    }
    assert len({r.protocol_key for r in records}) == len(records) == 12


def test_the_table_marks_the_best_and_warns(output: Path, checkpoint: Path, capsys: Any) -> None:
    assert main(["knn", str(checkpoint), "k=[1,20]", f"output={output.parent}/again", *FEW]) == 0
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if " to " in line]
    marked = [float(row.split()[-5]) for row in rows if row.startswith("*")]
    assert len(rows) == 4
    assert set(marked) == {max(float(row.split()[-5]) for row in rows)}
    assert "it is optimistic" in shown
    assert "transfer" not in shown


def _again(checkpoint: Path, *changes: str) -> int:
    return main(["knn", str(checkpoint), "k=5", "distance=cosine", *FEW, *changes])


def test_a_second_call_extracts_nothing(output: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "extract_features", None)
    assert _again(checkpoint) == 0


def test_bf16_is_close_and_said_and_another_extraction(output: Path, checkpoint: Path, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation"
    shutil.copytree(output, evaluation)
    settings = ["k=20", "distance=cosine", "precision=bf16-mixed", f"output={evaluation}", *FEW]
    assert main(["knn", str(checkpoint), *settings]) == 0
    added = read_records(evaluation)[len(read_records(output)) :]  # beside the others, which are still there
    assert {record.protocol.precision for record in added} == {"bf16-mixed"}
    assert "precision" not in read_records(output)[0].protocol.settings
    exact, _ = _features(output, "val")
    coarse = [torch.load(path, weights_only=True)["values"] for path in (evaluation / "cache").glob("val-*.pt")]
    assert len(coarse) == 2
    assert sorted(torch.equal(values, exact) for values in coarse) == [False, True]
    for values in coarse:
        torch.testing.assert_close(values, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())


@pytest.mark.parametrize("damage", ["cut", "altered", "foreign"])
def test_damaged_features_are_extracted_again(damage: str, output: Path, checkpoint: Path, caplog: Any) -> None:
    (path,) = (output / "cache").glob("train-*.pt")
    before = torch.load(path, weights_only=True)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "altered":
        torch.save({**before, "values": before["values"] + 1e-3}, path)
    else:
        torch.save([1, 2], path)
    assert _again(checkpoint) == 0
    assert f"{path} is damaged" in caplog.text
    assert torch.equal(torch.load(path, weights_only=True)["values"], before["values"])


def test_a_touched_image_is_another(tmp_path: Path) -> None:
    from solo_bam.data import find_source

    shutil.copytree(digits_folder() / "val", tmp_path / "val")
    data = evaluation_data(tiny(tmp_path), {"dataset": "custom", "train_path": tmp_path / "val"})
    before = cache.identity(find_source(data).train)
    assert cache.identity(find_source(data).train) == before
    image = next((tmp_path / "val" / "3").iterdir())
    os.utime(image, ns=(0, 0))
    assert cache.identity(find_source(data).train) != before


def test_transfer_is_said(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    folder = digits_folder()
    where = ["data.dataset=custom", f"data.train_path={folder}/train", f"data.val_path={folder}/val"]
    assert _again(checkpoint, *where, f"output={tmp_path}") == 0
    assert "The weights were trained on digits: this is transfer." in capsys.readouterr().out
    assert {r.protocol.pretrained_on for r in read_records(tmp_path)} == {"digits"}


@pytest.mark.parametrize(
    ("own", "other", "told"),
    [
        ({"dataset": "digits"}, {"dataset": "cifar10"}, "digits"),
        ({"dataset": "digits"}, {"dataset": "digits", "train_path": Path("copy")}, None),
        ({"train_path": Path("a")}, {"train_path": Path("a")}, None),
        ({"train_path": Path("a")}, {"train_path": Path("b")}, "a"),
        ({"name": "cats"}, {"name": "cats", "train_path": Path("b")}, None),
        ({"name": "cats"}, {"train_path": Path("b")}, "cats"),
        ({}, {"train_path": Path("b")}, "other images"),  # an exported file forgets its paths
    ],
)
def test_what_counts_as_transfer(own: dict[str, Any], other: dict[str, Any], told: str | None) -> None:
    trained, measured = (Data.model_validate({"dataset": "custom", **keys}) for keys in (own, other))
    pretrained: Any = SimpleNamespace(recipe=SimpleNamespace(data=trained))
    assert transferred_from(pretrained.recipe.data, measured) == told


def test_of_the_default_k_those_that_fit_are_used(output: Path, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(output / "cache", tmp_path / "cache")
    assert main(["knn", str(checkpoint), "distance=cosine", f"output={tmp_path}", *FEW]) == 0
    assert {r.protocol.k for r in read_records(tmp_path)} == {1, 5, 10, 20}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["k=50"], "k: got 50, the bank has 43 images; lower it"),
        (["k=0"], "k: got 0, must be greater than or equal to 1"),
        (["kk=1"], "kk: unknown key (value 1) (did you mean k?), allowed: k, temperature, distance,"),
        (["distance=dot"], "distance: got 'dot', must be cosine or euclidean"),
        (["temperature=0"], "temperature: got 0, must be greater than 0"),
        (["branch=teacher"], "branch: got 'teacher', the checkpoint's method has none; set branch=student"),
        (["data.datset=stl10"], "data.datset: unknown key (value 'stl10') (did you mean dataset?)"),
        (["data.no_labels=True"], "data.no_labels: got True, k-NN needs labels; set data.no_labels=False"),
        (["data.dataset=custom"], "data.train_path: is missing, custom needs it"),
        (["data=3"], "data: got 3, must be a valid dictionary"),
        (["data.x.y=3", "data.x=1", "data.x.z=2"], "data.x.z: is given both whole and in part"),
        (["accelerator=tpu"], "accelerator: got 'tpu' (did you mean gpu?)"),
        (["k"], "k: is not of the form key=value"),
    ],
)
def test_bad_input(lines: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["knn", str(checkpoint), *FEW, f"output={tmp_path}/out", *lines]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"solo-bam: error: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("command", "setting"), [("knn", "k=1"), ("health", "num_images=8"), ("explore", "k=1")])
def test_a_folder_that_cannot_be_written_is_said_at_once(
    command: str, setting: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("solo_bam.evaluate.features.extract_chunks", None)
    shutil.copy(checkpoint, tmp_path / "last.ckpt")
    (tmp_path / "evaluation").write_text("in the way")
    assert main([command, str(tmp_path / "last.ckpt"), setting]) == 2
    assert f": {tmp_path / 'evaluation'} cannot be written (" in capsys.readouterr().err


def test_splits_that_do_not_fit(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(digits_folder() / "val", tmp_path / "val")
    shutil.rmtree(tmp_path / "val" / "7")
    where = ["data.dataset=custom", f"data.train_path={digits_folder()}/train"]
    assert _again(checkpoint, *where) == 2
    assert "data.val_path: is missing, k-NN needs labelled test images" in capsys.readouterr().err
    assert _again(checkpoint, *where, f"data.val_path={tmp_path}/val") == 2
    assert "has other classes than" in capsys.readouterr().err


def test_nothing_to_evaluate(tmp_path: Path, capsys: Any) -> None:
    assert main(["knn", str(tmp_path)]) == 2
    assert f"there is no checkpoint in {tmp_path}" in capsys.readouterr().err


def test_one_value_is_a_list_of_one() -> None:
    assert parse_options(KNNOptions, ["k=3", "data.val_path=a"]).model_dump(include={"k", "data"}) == {
        "k": [3], "data": {"val_path": "a"},
    }  # fmt: skip
