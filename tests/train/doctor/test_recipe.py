"""What the doctor says about a recipe: it can run, or why not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.datasets

from solo_bam.cli import main
from solo_bam.config import Recipe
from solo_bam.runs.identity import recipe_hash
from solo_bam.train.doctor import gradients
from solo_bam.train.doctor import recipe as recipe_module
from solo_bam.train.doctor.finding import Finding
from solo_bam.train.doctor.gradients import check_gradients
from solo_bam.train.doctor.recipe import examine_recipe
from tests.data.pictures import cifar, folders, packed
from tests.recipes import tiny, tiny_overrides

SMALL = ["method_kwargs.proj_hidden_dim=16", "method_kwargs.proj_output_dim=16"]


@pytest.fixture(autouse=True)
def _without_processes(request: pytest.FixtureRequest, monkeypatch: Any) -> None:
    """They are tested once, below."""
    if "processes" not in request.node.name:
        monkeypatch.setattr(recipe_module, "check_gradients", lambda: Finding("ok", "processes", "not asked"))


def examine(tmp_path: Path, *overrides: str) -> dict[str, Finding]:
    return _told(tiny(tmp_path / "runs", "digits/bam", *SMALL, *overrides))


def _told(recipe: Recipe) -> dict[str, Finding]:
    return {f.topic: f for f in examine_recipe(recipe)}


def test_a_good_recipe(tmp_path: Path) -> None:
    found = examine(tmp_path, "backbone.name=resnet18", "optimizer.lr=0.4", "max_epochs=3", "accumulate_grad_batches=2")
    assert {f.status for f in found.values()} == {"ok"}
    assert found["data"].text.startswith("digits: 1,437 training and 360 validation images of 10 classes, in /")
    assert found["batch"].text.startswith("16 images x 2 accumulated on 1 process(es), peak learning rate 0.05 (")
    assert found["steps"].text == "4 an epoch, 12 in all, of 71 images"
    assert found["network"].text.startswith("resnet18 with its own stem; million parameters: 11.2 the network's, ")
    assert found["run"].text.startswith(f"starts {tmp_path}/runs/bam/bam-digits-")
    assert "a checkpoint takes about 0.1" in found["checkpoints"].text
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("times", [1, 4])
def test_the_rate_told_is_the_rate_that_trains(times: int, tmp_path: Path) -> None:
    from solo_bam.config.resolve import resolve
    from solo_bam.train.pretrain import build_model, find_devices

    recipe = tiny(tmp_path / "runs", "digits/bam", *SMALL, f"accumulate_grad_batches={times}")
    model = build_model(recipe, resolve(recipe, 10, True, 1), find_devices(recipe)[0])
    told = re.search(
        r"peak learning rate (\S+) \(optimizer.lr (\S+) x 16(?: x 4)? / 256\)", _told(recipe)["batch"].text
    )
    assert told is not None
    assert float(told[1]) == pytest.approx(model.lr, rel=1e-5)
    assert float(told[1]) == pytest.approx(float(told[2]) * 16 * times / 256, rel=1e-5)


def test_the_estimate_is_the_size_of_a_checkpoint(tmp_path: Path) -> None:
    from solo_bam.train.run import pretrain

    found = examine(tmp_path)["checkpoints"].text
    folder = pretrain(tiny(tmp_path / "runs", "digits/bam", *SMALL)).folder
    estimate = float(found.split("about ")[1].split(" GiB")[0])
    assert estimate == pytest.approx(folder.last_checkpoint.stat().st_size / 2**30, abs=0.01)
    assert examine(tmp_path)["runs"].status == "warning"


@pytest.mark.parametrize(
    ("overrides", "topic", "message"),
    [
        (["data.dataset=custom", "data.train_path=gone"], "data", "data.train_path: there is no folder gone"),
        (["devices=4096"], "devices", "devices: got 4096, this machine has"),
        (["precision=17"], "run", "precision: got 17"),
        (["strategy=dpp"], "run", "strategy: got 'dpp'"),
        (["scheduler.min_lr=1"], "batch", "scheduler.min_lr: got 1, must be at most the peak rate"),
        (["optimizer.batch_size=1000"], "steps", "optimizer.batch_size: got 1000 on 1 process(es), the training set has only 71"),
        (["data.fraction=0.001"], "steps", "data.fraction: got 0.001, which does not fit"),
        (["backbone.name=vit_tiny", "backbone.kwargs.patch_size=8", "augmentations=[{crop_size:16,num_crops:2},{crop_size:12,num_crops:1}]"], "network", "vit_tiny takes no crops of 12 px"),
        (["backbone.kwargs.nonsense=1"], "network", "backbone.kwargs.nonsense: unknown key"),
        (["data.contrastive_crop.enabled=True", "augmentations.0.rrc.enabled=True"], "network", "single point"),
    ],
)  # fmt: skip
def test_what_is_in_the_way(overrides: list[str], topic: str, message: str, tmp_path: Path) -> None:
    found = examine(tmp_path, *overrides)
    assert [f.topic for f in found.values() if f.status == "failure"] == [topic]
    assert message in found[topic].text
    assert found[topic].remedy


def test_without_validation_images(tmp_path: Path) -> None:
    root = folders(tmp_path / "train", count=20)
    found = examine(tmp_path, "data.dataset=custom", f"data.train_path={root}", "data.fraction=-1")
    assert (found["data"].status, found["data"].remedy) == (
        "warning",
        "the online linear head and k-NN are not evaluated",
    )


def test_nothing_is_downloaded_or_unpacked(tmp_path: Path, monkeypatch: Any) -> None:
    root = cifar(tmp_path / "data", "CIFAR10", monkeypatch, 4)
    archive = packed(root, "CIFAR10", monkeypatch)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/nowhere")
    found = examine(tmp_path, "data.dataset=cifar10", f"data.train_path={root}", "data.fraction=-1")
    assert found["data"].status == "failure"
    assert found["data"].remedy == f"let pretrain download it, or put {archive.name} there"
    assert list(root.iterdir()) == [archive]


def test_a_full_disk(tmp_path: Path, monkeypatch: Any) -> None:
    ordinary = recipe_module.disk
    monkeypatch.setattr(recipe_module, "disk", lambda folder, needed: ordinary(folder, needed * 2**40))
    found = examine(tmp_path)["checkpoints"]
    assert found.status == "failure"
    assert found.remedy == "make room or set checkpoint.dir to another disk"


def test_kept_checkpoints_count(tmp_path: Path) -> None:
    found = examine(tmp_path, "checkpoint.keep_prev=True", "max_epochs=100", "checkpoint.frequency=10")
    assert "at most 11 at once" in found["checkpoints"].text


@pytest.mark.parametrize(("status", "remedy"), [("finished", "folder of its own"), ("running", "--resume")])
def test_earlier_runs_of_the_same_recipe(status: str, remedy: str, tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "runs", "digits/bam", *SMALL)
    for name, digits in (("mine", recipe_hash(recipe)), ("other", "00000000")):
        (tmp_path / "runs" / "bam" / name).mkdir(parents=True)
        record = {"recipe_hash": digits, "status": status}
        (tmp_path / "runs" / "bam" / name / "run.json").write_text(json.dumps(record))
    found = examine(tmp_path)["runs"]
    assert found.status == "warning"
    assert found.text.startswith("mine is ")
    assert remedy in found.remedy


def test_the_exit_code(tmp_path: Path, capsys: Any) -> None:
    """0: it can run; 1: it cannot; the page names each failure."""
    overrides = tiny_overrides(tmp_path / "runs", *SMALL)
    assert main(["doctor", "digits/bam", *overrides]) == 0
    assert "the recipe can run, " in capsys.readouterr().out
    assert main(["doctor", "digits/bam", *overrides, "devices=4096", "precision=17"]) == 1
    page = capsys.readouterr().out
    assert re.search(r"failure  devices +devices: got 4096", page)
    assert "1 failure(s): mend them first" in page
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------------------------------ two processes


def test_two_processes_give_the_result_of_one() -> None:
    found = check_gradients(timeout=120)
    assert found.status == "ok", found


def test_processes_that_cannot_reach_one_another_say_so_in_one_line(monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    found = check_gradients(timeout=60)
    assert found.status == "warning"
    assert re.fullmatch(r"two gloo processes do not work together \([^[\n]*nowhere0[^\n]*\)", found.text)
    assert capfd.readouterr().err == ""


def test_processes_that_differ_are_a_failure(monkeypatch: Any) -> None:
    loss, gradient = gradients._loss_and_gradient(0, 1)
    monkeypatch.setattr(gradients, "_on_two_processes", lambda timeout: (loss, gradient))
    assert check_gradients().status == "ok"
    wrong = gradient.clone()
    wrong[2, 3] += 1e-6
    for answer in ((loss + 1e-6, gradient), (loss, wrong), (loss, gradient * torch.nan)):
        monkeypatch.setattr(gradients, "_on_two_processes", lambda timeout, answer=answer: answer)
        assert check_gradients().status == "failure"


class _Ended:
    exitcode = 7


class _Silent:
    exitcode = None


def test_processes_that_hang_or_die_are_given_up(monkeypatch: Any) -> None:
    import queue

    with pytest.raises(RuntimeError, match="one ended with 7"):
        gradients._answer(queue.Queue(), [_Silent(), _Ended()], gradients.time.monotonic() + 10)
    with pytest.raises(TimeoutError):
        gradients._answer(queue.Queue(), [_Silent(), _Silent()], gradients.time.monotonic() + 0.3)

    def fail(timeout: float) -> Any:
        raise TimeoutError("no answer in time")

    monkeypatch.setattr(gradients, "_on_two_processes", fail)
    assert check_gradients().status == "warning"
