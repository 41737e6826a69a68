"""``solo-bam linear`` as a user runs it: on a run, on files of solo-learn, with every shipped recipe."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from solo_bam.cli import main
from solo_bam.cli.linear import _parser
from solo_bam.cli.options import parse, split_settings
from solo_bam.config import recipe_folders
from solo_bam.config.find import recipe_names
from solo_bam.config.linear import load_linear_recipe
from solo_bam.data.labelled import LabelledData, find_labelled
from solo_bam.runs.checkpoints.read import hash_weights, load_pretrained
from solo_bam.runs.records import read_records, wilson_interval
from solo_bam.train import linear as command
from tests.pretrained import TINY, VIT, pretrained_run
from tests.zygote import Zygote

RECIPES = recipe_names(recipe_folders("linear"))
SWEEP = "optimizer.lr=[0.1,1,3]"


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained_run(tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained_run(tmp_path_factory.mktemp("vit"), *VIT)


def classify(*arguments: str, resume: bool = False) -> command.Classified:
    """What ``main`` does, and what came of it."""
    options = parse(_parser(), list(arguments))
    paths, overrides = split_settings(options.arguments)
    found = command.find_recipe(options.config_name, options.config_path, Path(paths[0]) if paths else None, overrides)
    return command.linear(*found, resume=resume)


def on(run: Path, folder: Path, *overrides: str) -> command.Classified:
    """The digits' recipe at tiny size."""
    return classify(str(run), *TINY, f"checkpoint.dir={folder}", *overrides)


# ------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_trains_two_steps(name: str, resnet: Path, vit: Path, tmp_path: Path) -> None:
    own = load_linear_recipe(name)
    tokens = own.probe.blocks > 1 or own.probe.avgpool or bool(own.optimizer.layer_decay)
    more = ["data.tune_fraction=0.4"] if own.data.tune_fraction else []
    trained = on(vit if tokens else resnet, tmp_path, "--config-name", name, *more)
    assert trained.folder.path.parent == tmp_path / "linear"
    assert 0 <= trained.records[0].value <= 100
    assert trained.records[0].protocol.kind == ("finetune" if own.finetune else "linear")


def test_the_shipped_recipes_are_there() -> None:
    assert {"digits/linear", "cifar/linear", "imagenet-100/linear", "imagenet/linear"} <= set(RECIPES)
    vit_base = load_linear_recipe("imagenet/bam_vit_base")
    assert (vit_base.optimizer.lr, vit_base.scheduler.name, vit_base.max_epochs) == ([0.002], "cosine", 100)
    assert vit_base.probe.model_dump() == {"blocks": 1, "avgpool": True, "batch_norm": True}


# -------------------------------------------------------------------------------------- what is left


def test_what_a_run_leaves_behind(resnet: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["linear", str(resnet), *TINY, f"checkpoint.dir={tmp_path}", SWEEP, "data.tune_fraction=0.4"]) == 0
    printed = capsys.readouterr().out
    [folder] = (tmp_path / "linear").iterdir()
    assert folder.name.startswith("linear-digits-")
    about = json.loads((folder / "run.json").read_text())
    assert about["status"] == "finished"
    records = read_records(folder / "evaluation")
    [written] = (folder / "evaluation").iterdir()
    assert (resnet / "evaluation" / written.name).read_bytes() == written.read_bytes()
    accuracy, top5, rate = records
    assert (accuracy.metric, top5.metric, rate.metric) == ("accuracy", "accuracy@5", "learning rate")
    assert about["results"]["accuracy"] == accuracy.value
    assert accuracy.images == 32  # two batches
    assert accuracy.interval == pytest.approx(wilson_interval(accuracy.value / 100, 32))
    pretrained = load_pretrained(resnet)
    assert (accuracy.weights, accuracy.epoch, accuracy.method) == (pretrained.weights, 4, "bam")
    protocol = accuracy.protocol
    assert (protocol.learning_rate, protocol.chosen_on) == ((0.1, 1.0, 3.0), 29)
    assert (protocol.batch, protocol.epochs, protocol.crop, protocol.seed) == (16, 1, 16, 5)
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert [row["lr"] for row in rows] == ["0.1", "1", "3"]
    held_out = {float(row["lr"]): float(row["tune_acc1"]) for row in rows}
    assert held_out[rate.value] == max(held_out.values())
    [chosen] = [row for row in rows if float(row["lr"]) == rate.value]
    assert float(chosen["val_acc1"]) == pytest.approx(accuracy.value, abs=1e-3)
    confusion = [list(map(int, row[1:])) for row in list(csv.reader((folder / "confusion.csv").open()))[1:]]
    assert 100 * sum(confusion[i][i] for i in range(10)) / 32 == pytest.approx(accuracy.value)
    assert sum(int(row["images"]) for row in csv.DictReader((folder / "per_class.csv").open())) == 32
    assert len((folder / "tune_split.txt").read_text().splitlines()) == 29
    assert "train_loss_lr0.1" in (folder / "metrics.csv").read_text()
    assert "<- best" in printed
    assert str(folder) in printed


@pytest.mark.pictures
def test_a_picture_that_fails_does_not_lose_the_run(resnet: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no room for the labels")

    monkeypatch.setattr("solo_bam.train.pictures.plot_confusion", fail)
    with pytest.warns(UserWarning, match="confusion could not be drawn .*no room"):
        trained = on(resnet, tmp_path)
    assert trained.folder.record()["status"] == "finished"
    assert not list(trained.folder.path.glob("**/*.png"))


def test_a_checkpoint_in_a_folder_that_cannot_be_written(resnet: Path, tmp_path: Path, recwarn: Any) -> None:
    """As on a shared disk; the run itself is whole."""
    shutil.copy(resnet / "checkpoints" / "last.ckpt", tmp_path / "last.ckpt")
    (tmp_path / "evaluation").write_text("in the way")
    trained = on(tmp_path / "last.ckpt", tmp_path)
    assert trained.folder.record()["status"] == "finished"
    assert read_records(trained.folder.path / "evaluation") == trained.records
    (told,) = [str(w.message) for w in recwarn if "could not be written" in str(w.message)]
    assert told == f"The records could not be written to {tmp_path / 'evaluation'}, too (File exists)."


def test_choosing_on_the_validation_images_is_said(resnet: Path, tmp_path: Path, capsys: Any, caplog: Any) -> None:
    trained = on(resnet, tmp_path, SWEEP, "data.tune_fraction=0")
    assert "chosen on the validation images, which flatters it" in caplog.text + capsys.readouterr().err
    assert trained.records[0].protocol.chosen_on == "the validation images"
    assert trained.records[0].value == max(trained.model.tallies[0].accuracies)


def test_labels_are_listed(resnet: Path, tmp_path: Path) -> None:
    trained = on(resnet, tmp_path, "optimizer.lr=0.3", "data.tune_fraction=0", "data.label_fraction=0.5")
    assert len((trained.folder.path / "label_subset.txt").read_text().splitlines()) == 40
    assert trained.records[0].protocol.training_images == "40"
    assert trained.records[0].protocol.label_fraction == 0.5


# ------------------------------------------------------------------------------------------ training


def _head(trained: command.Classified, number: int = 0) -> torch.Tensor:
    weight: torch.Tensor = trained.model.heads.layers[number].weight.detach()  # type: ignore[union-attr,operator,assignment]
    return weight


def test_a_head_of_a_sweep_is_the_head_alone(resnet: Path, tmp_path: Path) -> None:
    sweep = on(resnet, tmp_path / "sweep", SWEEP, "data.tune_fraction=0", "max_epochs=2")
    for number, rate in enumerate((0.1, 1, 3)):
        alone = on(resnet, tmp_path / f"{rate}", f"optimizer.lr={rate}", "data.tune_fraction=0", "max_epochs=2")
        assert torch.equal(_head(sweep, number), _head(alone))
        assert sweep.model.tallies[0].accuracies[number] == alone.records[0].value


def test_a_frozen_backbone_does_not_change(resnet: Path, tmp_path: Path) -> None:
    trained = on(resnet, tmp_path, "probe.batch_norm=True")
    assert hash_weights(trained.model.backbone) == load_pretrained(resnet).weights == trained.records[0].weights
    assert not trained.model.train().backbone.training
    assert trained.model.heads.norm.num_batches_tracked == 2


def test_the_teacher_can_be_probed(resnet: Path, tmp_path: Path) -> None:
    record = on(resnet, tmp_path, "branch=teacher").records[0]
    assert record.branch == "teacher"
    assert record.weights == load_pretrained(resnet, "teacher").weights != load_pretrained(resnet).weights


def test_the_untrained_network_can_be_probed(resnet: Path, tmp_path: Path) -> None:
    record = on(resnet, tmp_path, "branch=untrained").records[0]
    assert (record.branch, record.epoch) == ("untrained", 0)
    assert record.weights == load_pretrained(resnet, "untrained").weights != load_pretrained(resnet).weights


def test_fine_tuning_trains_all_of_it(vit: Path, tmp_path: Path) -> None:
    """With mixup, cutmix, smoothed labels and RandAugment, and each layer at its rate."""
    before = load_pretrained(vit)
    trained = on(vit, tmp_path, "--config-name", "cifar/finetune_vit", "auto_augment=True", "data.dataset=digits")
    backbone = trained.model.backbone
    changed = {
        name: (value - before.backbone.state_dict()[name]).abs().max().item()
        for name, value in backbone.state_dict().items()
    }
    assert all(change > 0 for change in changed.values())
    # Adam's steps are as large as the rates.
    assert changed["blocks.11.mlp.fc1.weight"] > 5 * changed["blocks.0.mlp.fc1.weight"]
    protocol = trained.records[0].protocol
    assert protocol.mixup == 0.8
    assert protocol.augmentation == "RandAugment and random erasing"
    assert trained.records[0].weights == before.weights  # those that were given


def test_features_of_images_that_never_change_are_extracted_once(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They give what the images give, and images that do change are seen in every epoch."""
    from solo_bam.train import classifier

    seen: list[int] = []
    ordinary = classifier.probed_features

    def counting(backbone: Any, images: torch.Tensor, probe: Any) -> torch.Tensor:
        seen.append(len(images))
        return ordinary(backbone, images, probe)

    monkeypatch.setattr(classifier, "probed_features", counting)
    overrides = ["max_epochs=3", "scheduler.name=none", SWEEP, "data.tune_fraction=0.4", "probe.batch_norm=True",
                 "limit_val_batches=1.0"]  # fmt: skip
    kept = on(resnet, tmp_path / "kept", *overrides)
    images = 71 + 360  # to train or choose the rate on, to test on
    assert sum(seen) == images
    seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(LabelledData, "same_every_epoch", False)
        anew = on(resnet, tmp_path / "anew", *overrides)
    assert sum(seen) > 2 * images
    assert [r.value for r in kept.records] == [r.value for r in anew.records]
    for number in range(3):
        assert torch.allclose(_head(kept, number), _head(anew, number), atol=1e-5)
    for changing in ("rrc.enabled=True", "horizontal_flip.prob=0.5"):
        seen.clear()
        on(resnet, tmp_path / changing[:4], *overrides, "limit_val_batches=1", f"data.augmentations.{changing}")
        assert sum(seen) == 3 * (2 + 2) * 16 + 2 * 16  # two batches of each split, and the test after them


def test_resuming_changes_nothing(resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from solo_bam.train.callbacks import EpochSeed

    overrides = ["max_epochs=3", "scheduler.lr_decay_steps=[1,2]", SWEEP, "data.tune_fraction=0",
                 "checkpoint.enabled=True", "probe.batch_norm=True"]  # fmt: skip
    whole = on(resnet, tmp_path / "whole", *overrides)
    ordinary = EpochSeed.on_train_epoch_start

    def kill(self: Any, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("killed")
        ordinary(self, trainer, pl_module)

    with monkeypatch.context() as patch:
        patch.setattr(EpochSeed, "on_train_epoch_start", kill)
        with pytest.raises(RuntimeError, match="killed"):
            on(resnet, tmp_path / "parts", *overrides)
    resumed = on(resnet, tmp_path / "parts", *overrides, "auto_resume.enabled=True")
    assert len(list((tmp_path / "parts" / "linear").iterdir())) == 1
    for number in range(3):
        assert torch.equal(_head(whole, number), _head(resumed, number))
    assert whole.records[0].value == resumed.records[0].value


def test_two_processes_test_every_image_once(resnet: Path, tmp_path: Path, zygote: Zygote) -> None:
    """15 images on two processes: none twice, none left out."""
    from tests.data.pictures import folders

    data = ["data.dataset=custom", f"data.train_path={folders(tmp_path / 'train', 'abc')}", "data.fraction=-1",
            f"data.val_path={folders(tmp_path / 'val', 'abc', 5)}", "optimizer.batch_size=4",
            "limit_val_batches=1.0", "optimizer.lr=[0.1,1]", "probe.batch_norm=True"]  # fmt: skip
    line = [str(resnet), "--config-name", "digits/linear", *TINY, *data]
    both = [*line, f"checkpoint.dir={tmp_path}", "devices=2", "checkpoint.enabled=True"]
    start = zygote.start(["linear", *both], tmp_path / "output")
    assert start.wait(300) == 0, start.output.read_text()[-2000:]
    [folder] = (tmp_path / "linear").iterdir()
    record = read_records(folder / "evaluation")[0]
    assert (record.images, record.protocol.batch) == (15, 8)
    # The same weights give the same answers in one batch on one process.
    one = classify(*line, f"checkpoint.dir={tmp_path / 'one'}").model
    one.load_state_dict(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert [float(row["val_acc1"]) for row in rows] == pytest.approx(_accuracies(one.eval()), abs=1e-3)


@torch.no_grad()
def _accuracies(model: Any) -> list[float]:
    from torch.utils.data import DataLoader

    data = LabelledData(model.recipe, find_labelled(model.recipe))
    [(images, labels)] = DataLoader(data.test_sets[0], batch_size=15)
    shares: list[float] = (100 * (model(images).argmax(-1) == labels).double().mean(-1)).tolist()
    return shares


# ------------------------------------------------------------------------------- files of solo-learn


SOLO = """
defaults:
  - _self_
  - wandb: private.yaml
  - override hydra/hydra_logging: disabled
  - override hydra/job_logging: disabled
hydra:
  output_subdir: null
  run:
    dir: .
name: "byol-linear"
pretrained_feature_extractor: None
backbone:
  name: "resnet18"
pretrain_method: "byol"
data:
  dataset: custom
  train_path: "train"
  val_path: "val"
  format: "dali"
  num_workers: 0
optimizer:
  name: "sgd"
  batch_size: 4
  lr: 0.3
  weight_decay: 0
scheduler:
  name: "step"
  lr_decay_steps: [60, 80]
checkpoint:
  enabled: True
  dir: "trained_models"
  frequency: 1
auto_resume:
  enabled: True
max_epochs: 1
devices: [0]
sync_batchnorm: True
accelerator: "cpu"
strategy: "ddp"
precision: 32
"""


@pytest.fixture
def solo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: solo-learn's recipe, its checkpoint of a ResNet with ImageNet's stem, two small classes."""
    from solo_bam.backbones import create_backbone
    from tests.data.pictures import folders

    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "private.yaml").write_text("enabled: True\nentity: None\nproject: solo-learn\n")
    (tmp_path / "byol.yaml").write_text(SOLO)
    folders(tmp_path / "train")
    folders(tmp_path / "val")
    torch.manual_seed(0)
    state = create_backbone("resnet18").state_dict()
    old = {**{f"encoder.{key}": value for key, value in state.items()}, "projector.0.weight": torch.zeros(2)}
    torch.save({"state_dict": old, "epoch": 9}, tmp_path / "old.ckpt")
    return tmp_path


QUICK = ["wandb.enabled=False", "enable_progress_bar=False", "enable_model_summary=False", "num_sanity_val_steps=0"]


def test_a_recipe_and_a_checkpoint_of_solo_learn(solo: Path, capsys: Any, caplog: Any) -> None:
    line = ["--config-path", ".", "--config-name", "byol", "pretrained_feature_extractor=old.ckpt", *QUICK]
    trained = classify(*line, "data.augmentations.crop_size=96")  # the stem follows the crop: above 64 px ImageNet's
    record = trained.records[0]
    assert (record.method, record.epoch, record.images) == ("byol", 10, 20)
    assert record.data.startswith("custom val (")  # of which folder, by its files
    assert "a classifier's images are loaded by torchvision" in caplog.text + capsys.readouterr().err
    assert trained.folder.path.parent == solo / "trained_models" / "linear"
    # The recipe that a run leaves says all that it was trained by.
    left = yaml.safe_load((trained.folder.path / "recipe.yaml").read_text())
    assert (left["backbone"]["name"], left["backbone"]["cifar_stem"]) == ("resnet18", False)
    assert left["data"]["augmentations"]["mean"] == [0.485, 0.456, 0.406]


# ----------------------------------------------------------------------------------------- bad input

BYOL = "--config-path . --config-name byol"
CASES = {
    "nothing": ("", r"solo-bam linear: got neither a run nor --config-name; see solo-bam linear --help"),
    "a missing run": ("gone", r"pretrained_feature_extractor: there is no file .*gone; give a run's folder"),
    "no checkpoint named": (BYOL, r"pretrained_feature_extractor: is missing; give a run's folder or a checkpoint"),
    "no recipe for solo-learn's": ("old.ckpt", r"--config-name: is missing, .*old.ckpt has no recipe of its own"),
    "a path without a name": ("RUN --config-path .", r"--config-path: got no --config-name beside it; name the recipe"),
    "an unknown recipe": ("RUN --config-name digits/lineal", r"no recipe 'digits/lineal' .*did you mean digits/linear"),
    "an unknown key": ("RUN probe.block=4", r"probe.block: unknown key \(value 4\) \(did you mean blocks\?\)"),
    "an unknown top-level key": ("RUN finetun=True", r"finetun: unknown key .*did you mean finetune"),
    "a rate of words": ("RUN optimizer.lr=fast", r"optimizer.lr.*: got 'fast', "),
    "a negative rate": ("RUN optimizer.lr=[0.1,-1]", r"optimizer.lr: got -1, must be greater than 0"),
    "a rate twice": ("RUN optimizer.lr=[0.1,0.1]", r"optimizer.lr: got \[0.1, 0.1\], .*must be different rates"),
    "no share of the labels": ("RUN data.label_fraction=0", r"data.label_fraction: got 0, must be greater than 0"),
    "rates for fine-tuning": ("RUN finetune=True", r"optimizer.lr: got 6 rates, a backbone is fine-tuned with one"),
    "layers of a frozen one": ("RUN optimizer.layer_decay=0.7", r"optimizer.layer_decay: got 0.7, the backbone is frozen"),
    "clipping of many heads": ("RUN gradient_clip_val=1", r"gradient_clip_val: clips the heads of all learning rates"),
    "an odd batch to mix": ("RUN mixup=0.8 optimizer.batch_size=15", r"optimizer.batch_size: got 15, mixup and cutmix"),
    "an unknown schedule": ("RUN scheduler.name=reduce", r"scheduler.name: got 'reduce', must be warmup_cosine, cosine"),
    "a floor above the peak": ("RUN scheduler.min_lr=1", r"scheduler.min_lr: got 1, must be at most the smallest peak"),
    "tokens of a ResNet": ("RUN probe.blocks=4", r"probe.blocks: got 4, test_resnet is no ViT with a \[CLS\] token"),
    "another backbone": (
        "RUN backbone={name: resnet50}",
        r"backbone.name: got 'resnet50' from the linear recipe, the checkpoint was trained with 'test_resnet'; remove",
    ),
    "another stem": (
        "RUN backbone={name: test_resnet, cifar_stem: True}",
        r"backbone.cifar_stem: got True from the linear recipe, the checkpoint was trained with False",
    ),
    "solo-learn's with another backbone": (
        f"{BYOL} old.ckpt backbone.name=resnet50",
        r"the weights are not this backbone's \(missing: layer1.0.conv3.weight.* and \d+ more; .*of another shape",
    ),
    "solo-learn's without a backbone": (f"{BYOL} old.ckpt backbone=null", r"backbone.name: is missing, and the checkpoint"),
    "no weights at all": (f"{BYOL} empty.ckpt", r"the checkpoint has no backbone \(it has projector\)"),
    "nothing of a checkpoint": (f"{BYOL} nothing.ckpt", r"nothing.ckpt has no state_dict"),
    "a classifier": (f"{BYOL} classifier.ckpt", r"classifier.ckpt is a classifier's; give the checkpoint of a pretrain"),
    "the data set of the recipe": (
        "--config-name cifar/linear pretrained_feature_extractor=RUN",
        r"data.dataset: got cifar10 from the recipe, the checkpoint was trained on digits; set data.dataset=digits, or ",
    ),
    "no usual recipe": ("RUN data.dataset=stl10", r"--config-name: is missing, no recipe is the usual one for stl10"),
    "no labels": (
        "RUN --config-name digits/linear data.dataset=custom data.train_path=flat data.val_path=flat",
        r"data.train_path: flat has no class folders, a classifier needs labels; give a folder of class folders",
    ),
    "no validation images": (
        "RUN --config-name digits/linear data.dataset=custom data.train_path=train",
        r"data.val_path: is missing, accuracy is that of labelled images",
    ),
    "other classes": (
        "RUN --config-name digits/linear data.dataset=custom data.train_path=train data.val_path=other",
        r"data.val_path: other has other classes than train \(c\)",
    ),
    "fewer images than a batch": (
        "RUN data.label_fraction=0.001 data.tune_fraction=0 data.fraction=-1",
        r"optimizer.batch_size: got 16 on 1 process\(es\), the training set has only 10 images",
    ),
    "nothing to resume": ("RUN --resume", r"--resume: there is no unfinished run of exactly this recipe in .*linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_nothing_is_written(name: str, resnet: Path, solo: Path, capsys: Any) -> None:
    (solo / "flat").mkdir()
    for label in "abc":
        (solo / "other" / label).mkdir(parents=True)
        (solo / "other" / label / "0.png").write_bytes((solo / "train" / "a" / "000.png").read_bytes())
    torch.save({"state_dict": {"projector.weight": torch.zeros(1)}}, solo / "empty.ckpt")
    torch.save({"weights": 1}, solo / "nothing.ckpt")
    torch.save({"state_dict": {}, "solo_bam": {"method": "linear", "recipe": {}}}, solo / "classifier.ckpt")
    before = sorted(solo.rglob("*"))
    line, message = CASES[name]
    arguments = _words(line.replace("RUN", str(resnet)))
    if "RUN" in line and "--config-name cifar" not in line:
        mine = {a.split("=")[0] for a in arguments}
        arguments += [o for o in TINY if o.split("=")[0] not in mine]
    assert main(["linear", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert error.startswith("solo-bam: error: ")
    assert re.search(message, error), error
    assert sorted(solo.rglob("*")) == before


def test_a_network_that_does_not_name_its_layers(tmp_path: Path, capsys: Any) -> None:
    run = pretrained_run(tmp_path, "backbone.name=resnet18")
    assert main(["linear", str(run), *TINY, "optimizer.layer_decay=0.7", "finetune=True", "optimizer.lr=1"]) == 2
    assert "optimizer.layer_decay: got 0.7, resnet18 does not say which layers it has" in capsys.readouterr().err


def _words(line: str) -> list[str]:
    """As a shell splits it; what stands in braces stays together."""
    words: list[str] = []
    for word in line.split():
        if words and words[-1].count("{") > words[-1].count("}"):
            words[-1] += " " + word
        else:
            words.append(word)
    return words


def test_transfer_is_allowed_where_the_data_are_named_and_said(
    resnet: Path, solo: Path, capsys: Any, caplog: Any
) -> None:
    custom = ["data.dataset=custom", "data.train_path=train", "data.val_path=val", "optimizer.batch_size=4",
              "data.fraction=-1", "data.tune_fraction=0"]  # fmt: skip
    tiny = [o for o in TINY if not o.startswith("data.")]
    trained = classify(str(resnet), "--config-name", "digits/linear", *tiny, *custom)
    assert "Transfer: the weights were trained on digits, not custom." in caplog.text + capsys.readouterr().err
    assert trained.records[0].protocol.pretrained_on == "digits"
    assert trained.model.num_classes == 2
    # Images are normalised as the network was trained on them.
    assert trained.model.recipe.data.augmentations.mean == [0.3053] * 3
