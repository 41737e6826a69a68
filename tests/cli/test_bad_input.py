"""What users get wrong: exit code 2, one line that names the key, the value, what is allowed and what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import lightning.pytorch as pl  # noqa: F401  its logger keeps the first stderr that it sees, not a test's
import pytest
import torch
from PIL import Image

from solo_bam.cli import main
from tests.recipes import tiny_overrides

DIGITS = "--config-name digits/bam"


def _images(folder: Path, classes: tuple[str, ...] = ("a", "b"), count: int = 3) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(folder / name / f"{i}.png")
    return folder


def _world(folder: Path) -> None:
    """Files that the cases below name."""
    _images(folder / "good")
    _images(folder / "other", ("a", "c"))
    (_images(folder / "hollow") / "empty").mkdir()
    (folder / "nothing").mkdir()
    recipes = folder / "recipes"
    recipes.mkdir()
    (recipes / "broken.yaml").write_text("method: [bam\n")
    (recipes / "endless.yaml").write_text("seed: &x [*x]\n")
    (recipes / "bare.yaml").write_text("method: bam\n")
    (folder / "text.h5").write_text("no HDF5")
    with h5py.File(folder / "hollow.h5", "w") as file:
        file.create_group("a").create_dataset("0.png", data=b"x")
        file.create_group("b")
    h5py.File(folder / "nothing.h5", "w").close()
    torch.save({"solo_bam": {"method": "byol", "recipe": {}}, "state_dict": {}}, folder / "byol.ckpt")
    torch.save({"state_dict": {}}, folder / "foreign.ckpt")
    (folder / "garbage.ckpt").write_bytes(b"not a checkpoint")
    torch.save({"solo_bam": Path("x")}, folder / "code.ckpt")


CUSTOM = f"{DIGITS} data.dataset=custom"
H5 = f"{CUSTOM} data.format=h5"
CASES: dict[str, tuple[str, str]] = {
    # command line and recipe files
    "unknown command": ("pretrian", r"pretrian: unknown command \(did you mean pretrain\?\), allowed: .*pretrain"),
    "no recipe": ("pretrain", r"--config-name: is missing; give a recipe"),
    "unknown option": (f"pretrain {DIGITS} --devices 2", r"unrecognized arguments: --devices"),
    "unknown recipe": (
        "pretrain --config-name digits/bom",
        r"--config-name: there is no recipe 'digits/bom' in .* \(did you mean digits/bam\?\); use one of: .*digits/byol",
    ),
    "no such folder": (
        "pretrain --config-path nowhere --config-name bam",
        r"--config-path: there is no folder .*nowhere;",
    ),
    "broken YAML": ("pretrain --config-path recipes --config-name broken", r"broken.*; correct"),
    "broken YAML shown": ("show --config-path recipes broken", r"broken.*; correct"),
    "YAML that holds itself": (
        "pretrain --config-path recipes --config-name endless",
        r"--config-name endless: .*alias of itself.*; write",
    ),
    "recipe without its parts": (
        "pretrain --config-path recipes --config-name bare",
        r"max_epochs: is missing; add it",
    ),
    "not key=value": (f"pretrain {DIGITS} optimizer.lr", r"optimizer.lr: is not of the form key=value"),
    "unknown group": (f"pretrain {DIGITS} augmentations=none", r"Could not find 'augmentations/none'.*correct it"),
    # keys
    "unknown top-level key": (
        f"pretrain {DIGITS} max_epoch=3",
        r"max_epoch: unknown key \(value 3\) \(did you mean max_epochs\?\)",
    ),
    "unknown nested key": (
        f"pretrain {DIGITS} optimizer.leraning_rate=0.1",
        r"optimizer.leraning_rate: unknown key \(value 0.1\), allowed: name, batch_size, lr, .*; remove it",
    ),
    "unknown key in a list": (
        f"pretrain {DIGITS} augmentations.0.color_jiter.prob=0.1",
        r"augmentations.0.color_jiter: unknown key .* \(did you mean color_jitter\?\)",
    ),
    "unknown BAM key": (
        f"pretrain {DIGITS} method_kwargs.rag=0.1",
        r"method_kwargs.rag: unknown key for bam \(value 0.1\) \(did you mean reg\?\)",
    ),
    "another method's key": (
        "pretrain --config-name digits/byol method_kwargs.reg=0.1",
        r"method_kwargs.reg: unknown key for byol \(value 0.1\).*allowed: .*proj_output_dim, ",
    ),
    "misspelt method": (
        f"pretrain {DIGITS} method=bamm",
        r"method: got 'bamm' \(did you mean bam\?\), allowed: .*bam, bam_momentum, ",
    ),
    "unknown backbone": (
        f"pretrain {DIGITS} backbone.name=resnet81",
        r"backbone.name: got 'resnet81' \(did you mean resnet18\?\)",
    ),
    "unknown key of a backbone": (
        f"pretrain {DIGITS} backbone.name=resnet18 backbone.kwargs.drop_path_rate=0.1",
        r"backbone.kwargs.drop_path_rate: unknown key for resnet18 \(value 0.1\), allowed: block, ",
    ),
    "pretrained weights": (
        f"pretrain {DIGITS} backbone.name=resnet34 backbone.kwargs.pretrained=True",
        r"backbone.kwargs.pretrained: got True, backbones start from random weights and nothing is downloaded; remove it",
    ),
    "CIFAR's stem for a ViT": (
        f"pretrain {DIGITS} backbone.name=vit_tiny backbone.cifar_stem=True",
        r"backbone.cifar_stem: got True, vit_tiny is no ResNet; remove it",
    ),
    "crops that a backbone does not take": (
        f"pretrain {DIGITS} backbone.name=vit_tiny backbone.kwargs.patch_size=8 augmentations=[{{crop_size:16,num_crops:2}},{{crop_size:12,num_crops:1}}]",
        r"backbone.name: vit_tiny takes no crops of 12 px \(.*divisible by patch size.*\); change",
    ),
    "boxes from a single point": (
        f"pretrain {DIGITS} backbone.name=resnet18 data.contrastive_crop.enabled=True augmentations.0.rrc.enabled=True",
        r"data.contrastive_crop.enabled: got True, resnet18's heat map of an image of 16 px is a single point; set",
    ),
    "boxes without crops": (
        f"pretrain {DIGITS} data.contrastive_crop.enabled=True augmentations.0.rrc.enabled=False",
        r"data.contrastive_crop.enabled: got True, no pipeline crops; set augmentations",
    ),
    "unknown dataset": (
        f"pretrain {DIGITS} data.dataset=mnist",
        r"data.dataset: got 'mnist', must be digits, cifar10, ",
    ),
    "unknown optimizer": (
        f"pretrain {DIGITS} optimizer.name=adamv",
        r"optimizer.name: got 'adamv' \(did you mean adam\?\), must be sgd, lars, adam or adamw",
    ),
    # values
    "reg 0": (
        f"pretrain {DIGITS} method_kwargs.reg=0",
        r"method_kwargs.reg: got 0, must be greater than or equal to 0.000001; correct it",
    ),
    "reg below 0": (
        f"pretrain {DIGITS} method_kwargs.reg_final=-1",
        r"method_kwargs.reg_final: got -1, must be greater than or equal to 0.000001",
    ),
    "temperature 0": (
        f"pretrain {DIGITS} method_kwargs.temperature=0.0",
        r"method_kwargs.temperature: got 0.0, must be greater than or equal to 0.000001",
    ),
    "lr of words": (f"pretrain {DIGITS} optimizer.lr=fast", r"optimizer.lr: got 'fast', must be a valid number"),
    "lr not finite": (f"pretrain {DIGITS} optimizer.lr=inf", r"optimizer.lr: got inf, must be a finite number"),
    "half an image": (
        f"pretrain {DIGITS} optimizer.batch_size=12.5",
        r"optimizer.batch_size: got 12.5, must be a valid integer",
    ),
    "probability above 1": (
        f"pretrain {DIGITS} augmentations.0.affine.prob=1.5",
        r"augmentations.0.affine.prob: got 1.5, must be less than or equal to 1",
    ),
    "no epochs": (f"pretrain {DIGITS} max_epochs=0", r"max_epochs: got 0, must be greater than or equal to 1"),
    # keys that do not fit together
    "too many target crops": (
        f"pretrain {DIGITS} method_kwargs.target_crops_number=3",
        r"method_kwargs.target_crops_number: got 3, must be at most the 2 large crops; lower it",
    ),
    "batch of one": (
        f"pretrain {DIGITS} optimizer.batch_size=1",
        r"optimizer.batch_size: got 1, must be at least 2 with method_kwargs.positive_masking",
    ),
    "batch of one whose own view is hidden": (
        f"pretrain {DIGITS} optimizer.batch_size=1 method_kwargs.positive_masking=self method_kwargs.target_crops_number=1",
        r"optimizer.batch_size: got 1, must be at least 2 with method_kwargs.positive_masking=self \(a view's own column",
    ),
    "batch of one with weight on its positives": (
        f"pretrain {DIGITS} optimizer.batch_size=1 method_kwargs={{positive_masking:False,positive_weight:0.5,target_crops_number:1}}",
        r"optimizer.batch_size: got 1, must be at least 2 with method_kwargs.positive_weight=0.5 \(a view's own column",
    ),
    "top-k above the columns": (
        f"pretrain {DIGITS} method_kwargs.top_k_sink=31",
        r"method_kwargs.top_k_sink: got 31, must be at most the 30 columns \(2 target crops x 16 images",
    ),
    "weight above 1": (
        f"pretrain {DIGITS} method_kwargs.positive_weight=1.5",
        r"method_kwargs.positive_weight: got 1.5, must be less than or equal to 1",
    ),
    "no such masking": (
        f"pretrain {DIGITS} method_kwargs.positive_masking=own",
        r"method_kwargs.positive_masking: got 'own', must be True, False or self",
    ),
    "one crop": (
        f"pretrain {DIGITS} augmentations.0.num_crops=1",
        r"augmentations: got 1 crop, bam takes at least 2",
    ),
    "three crops for BYOL": (
        "pretrain --config-name digits/byol augmentations.0.num_crops=3",
        r"augmentations: got 3 large crops, byol takes 2",
    ),
    "warm-up beyond the end": (
        f"pretrain {DIGITS} scheduler.warmup_epochs=5",
        r"scheduler.warmup_epochs: got 5, must be below max_epochs \(1\)",
    ),
    "weight decay from nothing": (
        f"pretrain {DIGITS} optimizer.weight_decay=0 optimizer.weight_decay_end=0.4",
        r"optimizer.weight_decay: got 0, must be above 0 with optimizer.weight_decay_end; give where it starts",
    ),
    "DINO's warm-up beyond the end": (
        "pretrain --config-name digits/dino method_kwargs.warmup_teacher_temperature_epochs=9",
        r"method_kwargs.warmup_teacher_temperature_epochs: got 9, must be at most max_epochs \(1\)",
    ),
    "tau falling": (
        f"pretrain {DIGITS} momentum.final_tau=0.5",
        r"momentum.base_tau: got 0.99, must be at most momentum.final_tau \(0.5\)",
    ),
    "crop scales reversed": (
        f"pretrain {DIGITS} augmentations.0.rrc.crop_min_scale=0.9 augmentations.0.rrc.crop_max_scale=0.5",
        r"augmentations.0.rrc.crop_min_scale: got 0.9, must be at most crop_max_scale \(0.5\)",
    ),
    # data
    "no training folder": (f"pretrain {CUSTOM}", r"data.train_path: is missing, custom needs it; give the folder"),
    "missing training folder": (
        f"pretrain {CUSTOM} data.train_path=gone",
        r"data.train_path: there is no folder gone; give a folder",
    ),
    "empty class folder": (
        f"pretrain {CUSTOM} data.train_path=hollow",
        r"data.train_path: the class folder hollow/empty holds no image \(.jpg, .*\); remove or fill it",
    ),
    "no class folders": (
        f"pretrain {CUSTOM} data.train_path=nothing",
        r"data.train_path: nothing has no class folders; .*no_labels=True",
    ),
    "no image": (
        f"pretrain {CUSTOM} data.train_path=nothing data.no_labels=True",
        r"data.train_path: nothing holds no image",
    ),
    "other validation classes": (
        f"pretrain {CUSTOM} data.train_path=good data.val_path=other",
        r"data.val_path: other has other classes than good \(b, c\)",
    ),
    "wrong dataset's folder": (
        f"pretrain {DIGITS} data.dataset=imagenet100 data.train_path=good",
        r"data.train_path: good has 2 class folders, imagenet100 has 100",
    ),
    "missing validation folder": (
        f"pretrain {CUSTOM} data.train_path=good data.val_path=gone",
        r"data.val_path: there is no folder gone; give a folder",
    ),
    "no HDF5 file named": (f"pretrain {H5}", r"data.train_path: is missing, custom needs it; give the HDF5 file"),
    "missing HDF5 file": (f"pretrain {H5} data.train_path=gone.h5", r"data.train_path: there is no file gone.h5; give"),
    "a folder for an HDF5 file": (
        f"pretrain {H5} data.train_path=good",
        r"data.train_path: there is no file good; give",
    ),
    "another kind of file": (
        f"pretrain {H5} data.train_path=text.h5",
        r"data.train_path: text.h5 cannot be opened as HDF5 \(.*\); give an HDF5 file, or set data.format",
    ),
    "empty HDF5 file": (f"pretrain {H5} data.train_path=nothing.h5", r"data.train_path: nothing.h5 has no groups"),
    "empty HDF5 group": (
        f"pretrain {H5} data.train_path=hollow.h5",
        r"data.train_path: the group b of hollow.h5 holds no image; remove or fill it",
    ),
    "HDF5 for CIFAR": (
        f"pretrain {DIGITS} data.dataset=cifar10 data.format=h5",
        r"data.format: got 'h5', cifar10 comes in files of its own; set data.format=image_folder",
    ),
    "unknown format": (
        f"pretrain {DIGITS} data.format=lmdb",
        r"data.format: got 'lmdb', must be image_folder, h5, dali or tensor",
    ),
    "unknown policy": (f"pretrain {DIGITS} data.on_error=ignore", r"data.on_error: got 'ignore', must be stop or skip"),
    "fraction below an image per class": (
        f"pretrain {DIGITS} data.fraction=0.001",
        r"data.fraction: got 0.001, which does not fit 1437 images \(.* 10\); raise it, or set -1",
    ),
    "fraction of a tiny folder": (
        f"pretrain {CUSTOM} data.train_path=good data.fraction=0.1",
        r"data.fraction: got 0.1, which does not fit 6 images",
    ),
    "doctor for changes to nothing": (
        "doctor seed=1",
        r"solo-bam doctor: got changes without a recipe; see solo-bam doctor --help",
    ),
    "doctor for a recipe with a mistake": (
        "doctor digits/bam seeed=1",
        r"seeed: unknown key .* \(did you mean seed\?\)",
    ),
    "doctor for two questions": ("doctor --data digits/bam --loaders digits/bam", r"not allowed with argument"),
    "doctor for an unknown recipe": ("doctor --data digits/bom", r"there is no recipe 'digits/bom'"),
    "doctor for a missing folder": (
        "doctor --data digits/bam data.dataset=custom data.train_path=gone",
        r"data.train_path: there is no folder gone",
    ),
    "batch above the images": (
        f"pretrain {CUSTOM} data.train_path=good data.fraction=-1",
        r"optimizer.batch_size: got 16 on 1 process\(es\), the training set has only 6 images; lower it",
    ),
    "skipping with DALI": (
        f"pretrain {DIGITS} data.format=dali dali.device=cpu data.on_error=skip",
        r"data.on_error: got 'skip', DALI skips nothing; set data.on_error=stop",
    ),
    # DALI
    "DALI on a device of words": (
        f"pretrain {DIGITS} data.format=dali dali.device=cuda",
        r"dali.device: got 'cuda', must be gpu or cpu",
    ),
    "DALI on a GPU that is not there": (
        f"pretrain {DIGITS} data.format=dali",
        r"dali.device: got 'gpu', this machine has none that CUDA can use; set dali.device=cpu",
    ),
    "loaders compared on a GPU that is not there": (
        "doctor --loaders digits/bam",
        r"dali.device: got 'gpu', this machine has none that CUDA can use; set dali.device=cpu",
    ),
    # machine
    "no GPU here": (
        f"pretrain {DIGITS} accelerator=gpu",
        r"accelerator: got 'gpu', this machine has none; use accelerator=auto or cpu",
    ),
    "unknown accelerator": (f"pretrain {DIGITS} accelerator=tpuu", r"accelerator: got 'tpuu', allowed: auto, cpu, gpu"),
    "more devices than there are": (
        f"pretrain {DIGITS} devices=4096",
        r"devices: got 4096, this machine has \d+ CPU cores; use fewer",
    ),
    "devices of words": (f"pretrain {DIGITS} devices=all", r"devices: got 'all', allowed: auto, -1, a number"),
    "unknown precision": (
        f"pretrain {DIGITS} precision=17",
        r"precision: got 17, .*Precision '?17'? is invalid.*; correct it",
    ),
    "unknown strategy": (f"pretrain {DIGITS} strategy=dpp", r"strategy: got 'dpp', .*; correct it"),
    "validation every 0 epochs": (
        f"pretrain {DIGITS} check_val_every_n_epoch=0",
        r"check_val_every_n_epoch: got 0, must be at least 1",
    ),
    "validation after more steps than there are": (
        f"pretrain {DIGITS} val_check_interval=1000",
        r"val_check_interval: got 1000, an epoch has \d+ steps; lower it",
    ),
    "a fraction above 1": (
        f"pretrain {DIGITS} limit_train_batches=2.5",
        r"limit_train_batches: got 2.5, .*; correct it",
    ),
    "no step": (f"pretrain {DIGITS} max_steps=0", r"max_steps: got 0, which leaves no step to train; raise it"),
    "a name with a slash": (f"pretrain {DIGITS} name=a/b", r"name: got 'a/b', must be without /"),
    "an interpolation of nothing": (
        f"pretrain {DIGITS} name=${{x}}",
        r"name: Interpolation key 'x' not found; correct it",
    ),
    # checkpoints
    "missing checkpoint": (
        f"pretrain {DIGITS} resume_from_checkpoint=gone.ckpt",
        r"resume_from_checkpoint: there is no file gone.ckpt",
    ),
    "another method's checkpoint": (
        f"pretrain {DIGITS} resume_from_checkpoint=byol.ckpt",
        r"resume_from_checkpoint: byol.ckpt is of method byol, the recipe's is bam; set method=byol",
    ),
    "somebody else's checkpoint": (
        f"pretrain {DIGITS} resume_from_checkpoint=foreign.ckpt",
        r"resume_from_checkpoint: foreign.ckpt was not saved by solo-bam",
    ),
    "no checkpoint at all": (
        f"pretrain {DIGITS} resume_from_checkpoint=garbage.ckpt",
        r"garbage.ckpt cannot be read safely",
    ),
    "a checkpoint with code": (
        f"pretrain {DIGITS} resume_from_checkpoint=code.ckpt",
        r"code.ckpt cannot be read safely",
    ),
    "nothing to resume": (
        f"pretrain {DIGITS} --resume",
        r"--resume: there is no unfinished run of exactly this recipe in .*runs/bam",
    ),
    "a Trainer argument that is ours": (
        f"pretrain {DIGITS} profiler=simple",
        r"profiler: is set by solo-bam itself; remove it",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_written(name: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    _world(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    line, message = CASES[name]
    arguments = line.split()
    if "--config-name digits" in line:
        at = arguments.index("--config-name") + 2
        tiny = [o for o in tiny_overrides(Path("runs")) if o.split("=")[0] not in {a.split("=")[0] for a in arguments}]
        arguments[at:at] = tiny
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert error.startswith("solo-bam: error: ")
    assert re.search(message, error), error
    assert sorted(tmp_path.rglob("*")) == before


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 20


def test_batch_norm_over_cpu_processes(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    arguments = ["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path / "runs")]
    unusual = ["devices=2", "sync_batchnorm=True", "backbone.name=test_efficientnet"]
    assert main([*arguments, *unusual]) == 2
    message = "sync_batchnorm: got True, BatchNormAct2d is not synchronised over processes on the CPU; set"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_missing_wandb(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    arguments = ["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path / "runs"), "wandb.enabled=True"]
    assert main(arguments) == 2
    assert "wandb.enabled: got True, wandb is not installed; pip install 'solo-bam[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_missing_h5py(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    (tmp_path / "train.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    where = ["data.dataset=custom", "data.format=h5", f"data.train_path={tmp_path / 'train.h5'}"]
    assert main(["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path / "runs"), *where]) == 2
    assert "data.format: got 'h5', h5py is not installed; pip install 'solo-bam[h5]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_missing_dali(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    dali = ["data.format=dali", "dali.device=cpu"]
    arguments = ["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path / "runs"), *dali]
    assert main(arguments) == 2
    message = "data.format: got 'dali', DALI is not installed; pip install 'solo-bam[dali]'"
    assert capsys.readouterr().err == f"solo-bam: error: {message}\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("read_every", [0, 2, 50], ids=["cpu", "read every 2 steps", "read at the epoch's end"])
def test_a_loss_that_is_not_finite_stops_the_run(
    read_every: int, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """It says where it stood and keeps the checkpoint of the epoch before, also where losses are read later."""
    from solo_bam.core import hardware
    from solo_bam.losses import BAMLoss

    monkeypatch.setattr(hardware, "reading_waits", lambda device: read_every > 0)
    monkeypatch.setattr(hardware, "READ_EVERY", read_every)

    calls = 0
    ordinary = BAMLoss.with_statistics

    def poisoned(self: BAMLoss, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        loss, statistics = ordinary(self, *args)
        return loss * (float("nan") if calls == 6 else 1), statistics

    monkeypatch.setattr(BAMLoss, "with_statistics", poisoned)
    arguments = ["pretrain", "--config-name", "digits/bam", *tiny_overrides(tmp_path / "runs"), "max_epochs=3"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the loss became nan at step 5 (epoch 1) with lr" in error
    assert "and reg 0.05" in error
    kept = next((tmp_path / "runs").rglob("last.ckpt"))
    assert str(kept) in error
    content = torch.load(kept, weights_only=True)
    assert content["epoch"] == 0
    assert all(value.isfinite().all() for value in content["state_dict"].values())
    shutil.rmtree(tmp_path / "runs")


@pytest.mark.parametrize("arguments", [["--help"], ["zoo", "list"]])
def test_a_reader_that_has_gone_is_no_traceback(arguments: list[str]) -> None:
    """As with ``| head -1``."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        command = [sys.executable, "-m", "solo_bam", *arguments]
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_machine_with_slurm_adds_no_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Lightning asks for srun wherever there is one; it is told where a launcher is looked for."""
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    overrides = tiny_overrides(tmp_path / "runs", "strategy=fsdp2", "performance.compile=True")
    assert main(["pretrain", "--config-name", "digits/bam", *overrides]) == 2
    assert not [told for told in recwarn if "srun" in str(told.message)]
