"""Numbers and work are never lost: none is made of broken weights, none replaces another's, places are checked first."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from solo_bam.cli import main
from solo_bam.runs.folder import RunFolder
from solo_bam.runs.records import Record, read_records, write_records
from tests.pretrained import TINY as TINY_LINEAR
from tests.pretrained import pretrained_run
from tests.recipes import tiny_overrides

KNN = ["k=5", "distance=cosine", "num_workers=0"]


def images(folder: Path, classes: str = "ab", count: int = 4, seed: int = 0) -> Path:
    """Noise in class folders, ``count`` images each."""
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def video(folder: Path, foreground: int = 1) -> Path:
    """A DAVIS folder of one sequence of three frames."""
    (folder / "ImageSets" / "2017").mkdir(parents=True)
    (folder / "ImageSets" / "2017" / "val.txt").write_text("cat\n")
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind / "480p" / "cat").mkdir(parents=True)
    for t in range(3):
        mask = np.zeros((32, 48), np.uint8)
        mask[8:20, 8 + t : 20 + t] = foreground
        Image.fromarray(np.where(mask > 0, 200, 30).astype(np.uint8)).convert("RGB").save(
            folder / f"JPEGImages/480p/cat/{t:05d}.jpg"
        )
        Image.fromarray(mask).save(folder / f"Annotations/480p/cat/{t:05d}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained_run(tmp_path_factory.mktemp("lost"))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


# ---------------------------------------------------------------------------------------- broken weights


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "command",
    [
        ["knn", "RUN", *KNN],
        ["linear", "RUN", "--config-name", "digits/linear", *TINY_LINEAR],
        ["davis", "RUN", "data.path=davis", "short_side=32"],
        ["health", "RUN", "num_workers=0"],
        ["export", "RUN"],
        ["plot", "features", "RUN"],
        ["explore", "RUN", "num_workers=0"],
    ],
    ids=lambda words: words[0],
)
def test_no_number_is_made_of_broken_weights(
    command: list[str], value: float, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copy.parent)
    video(Path("davis"))
    content = torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)
    content["state_dict"]["backbone.conv1.0.weight"][0, 0, 0, 0] = value
    torch.save(content, copy / "checkpoints" / "last.ckpt")
    before = sorted(copy.parent.rglob("*"))
    assert main([str(copy) if word == "RUN" else word for word in command]) == 2
    assert "conv1.0.weight" in capsys.readouterr().err
    assert sorted(copy.parent.rglob("*")) == before


# ----------------------------------------------------------------------------------------------- records


def _record(**changes: object) -> Record:
    return Record.model_validate({"metric": "accuracy", "value": 1.0, "data": "a val", "protocol": {"k": 1}, **changes})


def test_records_are_added_to_and_measured_again(tmp_path: Path) -> None:
    first, other = _record(), _record(protocol={"k": 2})
    write_records(tmp_path, "knn", [first])
    write_records(tmp_path, "knn", [other, _record(weights="ab"), _record(branch="teacher"), _record(data="b val")])
    assert len(read_records(tmp_path)) == 5
    again = _record(value=2.0)
    write_records(tmp_path, "knn", [again])
    found = read_records(tmp_path)
    assert len(found) == 5
    assert [r.value for r in found if r.same == first.same] == [2.0]


def test_a_file_that_holds_something_else_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "knn.json").write_text("[1")
    write_records(tmp_path, "knn", [_record()])
    assert len(read_records(tmp_path)) == 1
    assert (tmp_path / "knn.json.broken").read_text() == "[1"


def test_other_images_protocols_and_checkpoints_stand_beside_one_another(copy: Path, tmp_path: Path) -> None:
    folders = [images(tmp_path / name / "train", seed=seed) for seed, name in enumerate(("A", "B"))]
    for folder in folders:
        shutil.copytree(folder, folder.with_name("val"))

    def knn(folder: Path, *more: str, checkpoint: Path = copy) -> None:
        data = ["data.dataset=custom", f"data.train_path={folder}", f"data.val_path={folder.with_name('val')}"]
        assert main(["knn", str(checkpoint), *KNN, *data, *more]) == 0

    for folder in folders:
        knn(folder)
    knn(folders[0], "k=3")
    knn(folders[0])  # again: no further number
    shutil.copy(copy / "checkpoints" / "last.ckpt", copy / "checkpoints" / "epoch=0.ckpt")
    knn(folders[0], checkpoint=copy / "checkpoints" / "epoch=0.ckpt")
    records = [r for r in read_records(copy / "evaluation") if r.metric == "accuracy"]
    assert len({r.data for r in records}) == 2
    assert len({(r.protocol_key, r.checkpoint) for r in records}) == len(records) == 4
    assert any("epoch=0" in path.name for path in (copy / "evaluation").glob("*.json"))


def test_the_teachers_health_does_not_replace_the_students(copy: Path) -> None:
    for branch in ("student", "teacher"):
        assert main(["health", str(copy), "num_workers=0", f"branch={branch}", "num_images=20"]) == 0
    found = read_records(copy / "evaluation")
    assert {r.branch for r in found} == {"student", "teacher"}
    assert len(found) == 12


def test_another_protocol_of_videos_has_its_own_masks(copy: Path, tmp_path: Path) -> None:
    data = video(tmp_path / "davis")
    for side in (32, 64):
        assert main(["davis", str(copy), f"data.path={data}", f"short_side={side}"]) == 0
    assert len(list((copy / "evaluation").glob("davis-*/objects.csv"))) == 2
    assert {r.protocol.short_side for r in read_records(copy / "evaluation")} == {32, 64}


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    (tmp_path / "knn-custom-student.json").write_text(json.dumps([_record().model_dump(mode="json")]))
    (tmp_path / "health.json").write_text(json.dumps([_record(metric="spread", unit="").model_dump(mode="json")]))
    assert {r.metric for r in read_records(tmp_path)} == {"accuracy", "spread"}


# ------------------------------------------------------------------------------------------------ places


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (["pretrain", "--config-name", "digits/bam", *tiny_overrides(Path("file/x"))], "checkpoint.dir"),
        (["linear", "RUN", "--config-name", "digits/linear", *TINY_LINEAR, "checkpoint.dir=file/x"], "checkpoint.dir"),
        (["davis", "RUN", "data.path=davis", "short_side=32", "output=file/x"], "output"),
        (["plot", "features", "RUN", "output=file/x/p.png"], "output"),
        (["knn", "RUN", *KNN, "output=file/x"], "output"),
        (["knn", "RUN", *KNN, f"output={'x' * 300}"], "output"),
        (["export", "RUN", "output=file/x"], "output"),
        (["compare", "digits", "methods=[bam]", "seeds=[0]", "output=file/x"], "output"),
        (["report", "nowhere", "--output", "file/x"], "--output"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_place_that_cannot_be_written_is_told_first(
    command: list[str],
    key: str,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(copy.parent)
    Path("file").touch()
    video(Path("davis"))
    before = sorted(copy.parent.rglob("*"))
    assert main([str(copy) if word == "RUN" else word for word in command]) == 2
    assert capsys.readouterr().err.startswith(f"solo-bam: error: {key}: ")
    assert sorted(copy.parent.rglob("*")) == before


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("SOLO_BAM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert main(["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path / "runs")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ------------------------------------------------------------------------------------------------ resume


def test_a_run_goes_on_with_the_images_it_began_with_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, val = images(tmp_path / "train", count=10), images(tmp_path / "val", seed=1)
    data = ["data.dataset=custom", f"data.train_path={train}", f"data.val_path={val}", "data.fraction=-1"]
    words = ["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path / "runs"), *data, "data.num_workers=0"]
    words += ["max_epochs=2", "optimizer.batch_size=4", "limit_train_batches=2", "checkpoint.keep_prev=True"]
    assert main(words) == 0
    (run,) = (tmp_path / "runs" / "bam").iterdir()
    goes_on = [*words, f"resume_from_checkpoint='{run}/checkpoints/epoch=0.ckpt'"]
    assert main(goes_on) == 0  # the same images
    assert main([word.replace("=0.ckpt", "=1.ckpt") for word in goes_on]) == 2
    assert "of the last epoch: nothing is left to train" in capsys.readouterr().err
    images(train, count=12, seed=2)
    assert main(goes_on) == 2
    assert "data.train_path" in capsys.readouterr().err
    shutil.rmtree(train)
    images(train, classes="abc", count=10)
    images(val, classes="c")
    assert main(goes_on) == 2
    assert len(list((tmp_path / "runs" / "bam").iterdir())) == 2

    shutil.rmtree(train), shutil.rmtree(val / "c")
    images(train, count=10)
    assert main([*words, "--resume"]) == 2  # it is finished
    assert "is finished" in capsys.readouterr().err


def test_ctrl_c_after_the_last_epoch_tells_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from solo_bam.train import run as training

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    words = ["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(training, "_draw", interrupted)
        assert main(words) == 128 + signal.SIGINT
    (run,) = (RunFolder(path) for path in (tmp_path / "bam").iterdir())
    last = capsys.readouterr().err.splitlines()[-1]
    assert "interrupted" in last
    assert str(run.saved()[0]) in last
    assert "--resume" in last
    assert run.status == "stopped"
    assert main([*words, "--resume"]) == 0
    assert run.status == "finished"


def test_a_second_start_says_what_it_will_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path)]
    assert main(words) == 0
    (first,) = (tmp_path / "bam").iterdir()
    caplog.clear()
    assert main(words) == 0
    (second,) = {*(tmp_path / "bam").iterdir()} - {first}
    (told,) = [number for number, line in enumerate(caplog.messages) if f"{first.name} (finished)" in line]
    (begun,) = [number for number, line in enumerate(caplog.messages) if line.startswith("bam on digits")]
    assert second.name in caplog.messages[told]
    assert told < begun  # before anything runs
